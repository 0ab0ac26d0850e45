"""The pages of an API, `/docs` and `/redoc`, with their scripts served by the API: they work behind a firewall, and
load nothing from other sites.

The scripts are in the package `fastapi-offline`. A Content-Security-Policy lets a browser run only these and the one in
the page, and none that a description might smuggle in. Addresses are relative, so that a proxy may serve the API below
any path.
"""

import re
from base64 import b64encode
from hashlib import sha256
from importlib.resources import files

from fastapi import FastAPI
from fastapi.openapi.docs import get_redoc_html, get_swagger_ui_html
from fastapi.responses import HTMLResponse
from starlette.staticfiles import StaticFiles

ASSETS = "docs-assets"
SCHEMA = "openapi.json"
POLICY = {
    "default-src": "'none'",
    "connect-src": "'self'",
    "img-src": "'self' data:",
    "font-src": "data:",
    "style-src": "'self' 'unsafe-inline'",  # both programs style their elements one by one
    "worker-src": "blob:",  # ReDoc's search
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
}


def install(app: FastAPI) -> None:
    """Serve both pages of `app`, which must be created without its own (`docs_url=None, redoc_url=None`)."""
    icon = f"{ASSETS}/favicon.png"
    swagger = _guarded(
        get_swagger_ui_html(
            openapi_url=SCHEMA,
            title=app.title,
            swagger_js_url=f"{ASSETS}/swagger-ui-bundle.js",
            swagger_css_url=f"{ASSETS}/swagger-ui.css",
            swagger_favicon_url=icon,
        )
    )
    redoc = _guarded(
        get_redoc_html(
            openapi_url=SCHEMA,
            title=app.title,
            redoc_js_url=f"{ASSETS}/redoc.standalone.js",
            redoc_favicon_url=icon,
            with_google_fonts=False,
        )
    )
    app.mount(f"/{ASSETS}", StaticFiles(directory=str(files("fastapi_offline") / "static")), name=ASSETS)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return swagger

    @app.get("/redoc", include_in_schema=False)
    async def redoc_page() -> HTMLResponse:
        return redoc


def _guarded(page: HTMLResponse) -> HTMLResponse:
    """Return the page with a policy that allows the scripts in it by hash."""
    inline = re.findall(rb"<script>(.*?)</script>", bytes(page.body), re.DOTALL)
    hashes = [f"'sha256-{b64encode(sha256(script).digest()).decode()}'" for script in inline]
    policy = POLICY | {"script-src": " ".join(["'self'", *hashes])}
    page.headers["Content-Security-Policy"] = "; ".join(f"{name} {value}" for name, value in policy.items())
    return page
