"""Under what a request's Idempotency-Key is stored: it must not change, or a repetition after an upgrade runs again."""

from types import SimpleNamespace

import pytest
from fastapi import Request

from shared.http.call import call_of


@pytest.mark.parametrize("path", ["/orders", "/stock/tea 250 g/receipts", "/stock/ключ?a#b\\c/receipts", "/a//b"])
@pytest.mark.parametrize("query", [b"", b"a=1&b=%3Fx%20y"])
def test_it_is_the_path_and_the_query_of_the_url(path: str, query: bytes) -> None:
    headers = [(b"host", b"api:8000"), (b"idempotency-key", b"k")]
    scope = {"type": "http", "method": "POST", "path": path, "query_string": query, "headers": headers}
    request = Request({**scope, "scheme": "http", "server": ("api", 8000), "app": SimpleNamespace(state=None)})
    request.app.state = SimpleNamespace(parts=None)
    request.state.caller, request.state.traceparent = "ada", ""
    found = call_of(request, b"body")._request_key
    assert found == (f"ada POST {request.url.path}", "k", b"body", request.url.query)
