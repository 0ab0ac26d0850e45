"""What the command `console` refuses before it listens."""

import signal
from typing import Any

import pytest
from dependency_injector import containers, providers

from shared.console.serving import serve
from shared.container import ServiceContainer
from shared.errors import Misconfigured
from tests.unit.console.desk import settings, shop

NOBODY = "0" * 64


@containers.copy(ServiceContainer)
class ShopContainer(ServiceContainer):
    service = providers.Object(shop())


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"api_auth": "on", "api_tokens": ""}, "API_TOKENS: without a token"),
        ({"api_auth": "on", "api_tokens": f"shop:orders:read:{NOBODY}"}, "none has the scope console:read"),
        ({"console_host": "0.0.0.0"}, "everybody who reaches it could redrive"),
        ({"console_names": "https://a"}, "CONSOLE_NAMES: write names alone"),
        (
            {"api_auth": "on", "api_tokens": f"ada:console:read:{NOBODY}", "console_host": "a..b"},
            r"CONSOLE_HOST, CONSOLE_PORT: cannot listen on a\.\.b",
        ),
    ],
)
def test_what_would_be_of_no_use_or_open_to_all_is_refused(
    given: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    container: Any = ShopContainer()
    container.settings.override(providers.Object(settings(**given)))

    with pytest.raises(Misconfigured, match=words):
        serve(container, None)
