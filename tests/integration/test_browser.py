"""A real browser on function URLs: it loads a page from a web framework, runs its script, and calls another function across origins."""

from __future__ import annotations

import io
import json
import re
import subprocess
import zipfile
from pathlib import Path

import pytest

from tests.framework import clients, host
from tests.framework.engine import Engine, engine
from tests.framework.packages import package_of
from tests.integration.test_urls import url_of

RUNTIME = "nodejs22.x"
# Requests that wait for their answers: what the browser prints is the page after all of them.
PAGE = '''
from fastapi.responses import HTMLResponse
from m import app, f
SCRIPT = """
const said = document.getElementById("said");
function ask(method, url, body) {
  const request = new XMLHttpRequest();
  request.open(method, url, false);
  if (body !== undefined) request.setRequestHeader("Content-Type", "application/json");
  request.send(body === undefined ? null : JSON.stringify(body));
  return [request.status, JSON.parse(request.responseText)];
}
const lines = [ask("PUT", "/items/7", {name: "Tasse", price: 2.5}), ask("GET", "/items/7"), ask("POST", "/login"), ask("GET", "/me")];
const shop = new URLSearchParams(location.search).get("shop");
if (shop) {
  lines.push(ask("POST", shop + "items/9?tag=x", {name: "Teller"}));
  try { ask("POST", shop + "login", undefined); lines.push("let in"); } catch (e) { lines.push("kept out"); }
}
said.textContent = JSON.stringify(lines);
"""
@app.get("/page", response_class=HTMLResponse)
async def page():
    return "<!doctype html><meta charset=utf-8><title>Gr\\u00fcezi</title><h1>Shop</h1><pre id=said></pre><script>" + SCRIPT + "</script>"
'''


def package() -> bytes:
    out = io.BytesIO(package_of("fastapi_app"))
    with zipfile.ZipFile(out, "a") as archive:
        archive.writestr("page.py", PAGE)
    return out.getvalue()


def load(url: str, profile: Path) -> str:
    """The page as it is when its script has run."""
    command = [
        "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
        "--disable-component-update", "--disable-dev-shm-usage", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE *.localhost, EXCLUDE 127.0.0.1",
        f"--user-data-dir={profile}", "--dump-dom", url,
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


def said(page: str) -> list[object]:
    match = re.search(r"<pre id=\"said\">(.*?)</pre>", page)
    assert match is not None, page
    return list(json.loads(match[1]))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_page_of_fastapi(shared: Engine, tmp_path: Path) -> None:
    host.require("no Chromium")
    shared.deploy("browser-fastapi", package(), "page.f", Timeout=30, MemorySize=512)
    page = load(f"http://{url_of(shared, 'browser-fastapi')}/page", tmp_path)
    assert "<title>Grüezi</title>" in page
    item = {"name": "Tasse", "price": 2.5}
    assert said(page) == [[201, {"id": 7, **item}], [200, item], [200, {"ok": True}], [200, {"session": "abc", "theme": "dark"}]]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_page_that_calls_express_on_another_origin(tmp_path: Path) -> None:
    host.require("no Chromium")
    host.require("no Node.js with npm")
    with engine(runtimes={RUNTIME: str(clients.node_program(22))}, pool_size=1) as running:
        running.deploy("page", package(), "page.f", Timeout=30, MemorySize=512)
        running.deploy("express", clients.express(), "index.handler", Runtime=RUNTIME, Timeout=30, MemorySize=512)
        origin = f"http://{url_of(running, 'page')}"
        cors = {"AllowOrigins": [origin], "AllowMethods": ["POST"], "AllowHeaders": ["content-type"]}
        shop = f"http://{url_of(running, 'express', Cors=cors)}/"
        assert said(load(f"{origin}/page?shop={shop}", tmp_path / "in"))[4:] == [[201, {"id": "9", "name": "Teller", "tag": "x"}], "let in"]
        running.client().update_function_url_config(FunctionName="express", Cors={**cors, "AllowOrigins": ["http://elsewhere.localhost"]})
        page = load(f"{origin}/page?shop={shop}", tmp_path / "out")
        assert '<pre id="said"></pre>' in page, "the first refused call ends the script"
