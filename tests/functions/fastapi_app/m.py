"""A web application as people write it, behind an adapter from function URL events to ASGI."""

from typing import Annotated

from fastapi import Cookie, FastAPI, File, HTTPException, Response, UploadFile
from fastapi.responses import HTMLResponse
from mangum import Mangum
from pydantic import BaseModel

app = FastAPI(title="shop")
ITEMS: dict[int, dict] = {}


class Item(BaseModel):
    name: str
    price: float


@app.get("/", response_class=HTMLResponse)
async def home():
    return "<h1>Grüezi</h1>"


@app.put("/items/{item_id}", status_code=201)
async def put_item(item_id: int, item: Item):
    ITEMS[item_id] = item.model_dump()
    return {"id": item_id, **ITEMS[item_id]}


@app.get("/items")
async def items(limit: int = 10, tag: str | None = None):
    return {"limit": limit, "tag": tag, "items": len(ITEMS)}


@app.get("/items/{item_id}")
async def item(item_id: int):
    if item_id not in ITEMS:
        raise HTTPException(404, "no such item")
    return ITEMS[item_id]


@app.post("/login")
async def login(response: Response):
    response.set_cookie("session", "abc", httponly=True)
    response.set_cookie("theme", "dark")
    return {"ok": True}


@app.get("/me")
async def me(session: Annotated[str | None, Cookie()] = None, theme: Annotated[str | None, Cookie()] = None):
    return {"session": session, "theme": theme}


@app.post("/upload")
async def upload(file: Annotated[UploadFile, File()]):
    data = await file.read()
    return Response(bytes(reversed(data)), media_type="application/octet-stream")


f = Mangum(app, lifespan="off")
