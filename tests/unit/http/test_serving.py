"""An address that cannot be listened on stops the start; the message names the variables."""

import socket

import pytest
from fastapi import FastAPI

from shared.errors import Misconfigured
from shared.http.serving import serve
from shared.settings import Settings


@pytest.mark.parametrize("host", ["127.0.0.1", "nowhere.invalid"])
def test_an_address_that_is_taken_or_is_none(host: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings = Settings.model_construct(
            http_host=host, http_port=taken.getsockname()[1], log_level="info", shutdown_grace_seconds=1.0
        )
        with pytest.raises(Misconfigured, match="HTTP_HOST, HTTP_PORT"):
            serve(FastAPI(), settings)
