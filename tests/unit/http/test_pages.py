"""An API's pages load nothing from other hosts, so they work behind a firewall and run no foreign script."""

import asyncio
import re
from base64 import b64encode
from hashlib import sha256
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpx
import pytest
from dependency_injector import providers

from dev.service.skeleton.service.container import SkeletonContainer
from shared.settings import Settings


class Api:
    """A client of an application that is not served."""

    def __init__(self, application: Any) -> None:
        self._application = application

    def get(self, path: str) -> httpx.Response:
        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(self._application)
            async with httpx.AsyncClient(transport=transport, base_url="http://testserver") as client:
                return await client.get(path)

        return asyncio.run(ask())


@pytest.fixture(scope="module")
def api() -> Api:
    """A service's API without servers: the pages need none."""
    container = SkeletonContainer()
    settings = Settings(
        _env_file=None,  # type: ignore[call-arg]
        kafka_bootstrap_servers="127.0.0.1:1",
        database_url="postgresql://nobody@127.0.0.1:1/{service}",  # type: ignore[arg-type]
        api_auth="off",
    )
    container.settings.override(providers.Object(settings))
    return Api(container.application())


@pytest.mark.parametrize("page", ["/docs", "/redoc"])
def test_a_page_names_no_foreign_host_and_its_assets_answer(api: Api, page: str) -> None:
    answer = api.get(page)
    assert answer.status_code == 200
    named = re.findall(r"""(?:src|href|spec-url)=["']([^"']+)["']|url: '([^']+)'""", answer.text)
    addresses = [urljoin(f"http://testserver{page}", one or other) for one, other in named]
    assert {urlsplit(address).netloc for address in addresses} == {"testserver"}
    assert "http://testserver/openapi.json" in addresses
    assert [address for address in addresses if api.get(address).status_code != 200] == []
    assert any(address.endswith(".js") for address in addresses)
    assert "//" not in re.sub(r"<!--.*?-->", "", answer.text, flags=re.DOTALL).replace("redocly.com", "")


@pytest.mark.parametrize("page", ["/docs", "/redoc"])
def test_a_page_lets_its_own_scripts_run_and_no_others(api: Api, page: str) -> None:
    answer = api.get(page)
    policy = dict(part.split(" ", 1) for part in answer.headers["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert "http" not in answer.headers["Content-Security-Policy"]
    inline = re.findall(r"<script>(.*?)</script>", answer.text, re.DOTALL)
    hashes = [f"'sha256-{b64encode(sha256(script.encode()).digest()).decode()}'" for script in inline]
    assert policy["script-src"].split() == ["'self'", *hashes]


def test_an_asset_that_is_not_there_is_answered_like_any_other_path(api: Api) -> None:
    answer = api.get("/docs-assets/../core.py")
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"
