"""The shop: catalog and orders over HTTP, kept in sqlite; the warehouse is asked over gRPC."""

import asyncio
import hashlib
import logging
import logging.config
import os
import sqlite3
from contextlib import closing

import grpc
import httpx
import stock_pb2
import stock_pb2_grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from opentelemetry import metrics, trace
from sanic import Blueprint, Sanic
from sanic.exceptions import BadRequest, NotFound
from sanic.response import json, raw

PORT = int(os.environ.get("SHOP_PORT", "8080"))
DATABASE = os.environ.get("SHOP_DATABASE", "shop.db")
WORKERS = int(os.environ.get("SHOP_WORKERS", "1"))
LOOK_EVERY_SECONDS = float(os.environ.get("SHOP_LOOK_EVERY_SECONDS", "60"))
STOCK = "127.0.0.1:" + os.environ.get("STOCK_PORT", "50061")
TOKEN = [("x-stock-token", os.environ.get("STOCK_TOKEN", "open-sesame"))]

logging.config.dictConfig(
    {
        "version": 1,
        "disable_existing_loggers": True,
        "formatters": {"plain": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"}},
        "handlers": {
            "out": {"class": "logging.StreamHandler", "formatter": "plain", "stream": "ext://sys.stdout"},
        },
        "root": {"level": "INFO", "handlers": ["out"]},
        "loggers": {"sanic.root": {}, "sanic.server": {}, "sanic.error": {}, "sanic.access": {"level": "WARNING"}},
    }
)
log = logging.getLogger("shop")
tracer = trace.get_tracer("shop")
meter = metrics.get_meter("shop")
orders_placed = meter.create_counter("shop.orders", unit="{order}", description="Orders by how they ended.")

SCHEMA = """
CREATE TABLE IF NOT EXISTS item (id INTEGER PRIMARY KEY, name TEXT, cents INTEGER, picture BLOB);
CREATE TABLE IF NOT EXISTS placed (id INTEGER PRIMARY KEY, cents INTEGER);
INSERT OR IGNORE INTO item VALUES (1, 'tea', 450, NULL), (2, 'teapot', 2900, NULL), (3, 'samovar', 19900, NULL);
"""
RATES = {"EUR": 1.0, "CHF": 0.94}

catalog = Blueprint("catalog", url_prefix="/catalog")
orders = Blueprint("orders", url_prefix="/orders")


def rows(app, statement, *values):
    with closing(app.ctx.database.cursor()) as cursor:
        cursor.execute(statement, values)
        return cursor.fetchall()


def item(app, item_id):
    found = rows(app, "SELECT id, name, cents FROM item WHERE id = ?", item_id)
    if not found:
        raise NotFound(f"no item {item_id}")
    return dict(zip(("id", "name", "cents"), found[0], strict=True))


@catalog.get("/")
async def list_items(request):
    names = [name for (name,) in rows(request.app, "SELECT name FROM item ORDER BY id")]
    log.info("listed %d items", len(names))
    return json({"items": names})


@catalog.get("/<item_id:int>")
async def show_item(request, item_id):
    return json(item(request.app, item_id))


@catalog.get("/<item_id:int>/price/<currency:alpha>")
async def show_price(request, item_id, currency):
    """Ask the rates endpoint over HTTP, as if another team ran it; an unknown currency is a bug nobody has found."""
    wanted = item(request.app, item_id)
    answer = await request.app.ctx.http.get(f"/rates/{currency}")
    answer.raise_for_status()
    return json({"price": round(wanted["cents"] * answer.json()["rate"] / 100, 2), "currency": currency})


@catalog.post("/<item_id:int>/picture")
async def upload_picture(request, item_id):
    wanted = item(request.app, item_id)
    upload = request.files.get("picture") if request.files else None
    if upload is None:
        raise BadRequest("send the picture as multipart field 'picture'")
    rows(request.app, "UPDATE item SET picture = ? WHERE id = ?", upload.body, wanted["id"])
    return json({"name": upload.name, "sha256": hashlib.sha256(upload.body).hexdigest()}, status=201)


@catalog.get("/<item_id:int>/picture")
async def show_picture(request, item_id):
    ((picture,),) = rows(request.app, "SELECT picture FROM item WHERE id = ?", item_id) or ((None,),)
    if picture is None:
        raise NotFound("no picture yet")
    return raw(picture, content_type="image/png")


@orders.post("/")
async def place_order(request):
    lines = (request.json or {}).get("lines")
    if not lines:
        raise BadRequest("an order needs lines")
    with tracer.start_as_current_span("shop.price_basket") as span:
        span.set_attribute("shop.basket.lines", len(lines))
        cents = sum(item(request.app, line["item"])["cents"] * line["pieces"] for line in lines)
    left = await reserve(request.app, lines)
    rows(request.app, "INSERT INTO placed (cents) VALUES (?)", cents)
    orders_placed.add(1, {"shop.order.result": "placed"})
    log.info("order over %d cents placed", cents)
    return json({"cents": cents, "left": left}, status=201)


async def reserve(app, lines):
    """Send line by line and read each answer before the next line."""
    left = {}
    call = app.ctx.stock.Reserve(metadata=TOKEN, timeout=5)
    for line in lines:
        await call.write(stock_pb2.Line(item_id=line["item"], pieces=line["pieces"]))
        answer = await call.read()
        left[str(answer.item_id)] = answer.left
    await call.done_writing()
    await call.read()
    return left


@orders.get("/<order_id:int>")
async def show_order(request, order_id):
    found = rows(request.app, "SELECT cents FROM placed WHERE id = ?", order_id)
    if not found:
        raise NotFound(f"no order {order_id}")
    return json({"id": order_id, "cents": found[0][0]})


async def show_rate(request, currency):
    if currency not in RATES:
        raise NotFound(f"no rate for {currency}")
    return json({"rate": RATES[currency]})


async def stock_refused(request, error):
    """Turn what the warehouse says into an answer; its field violations reach the customer."""
    orders_placed.add(1, {"shop.order.result": "refused"})
    rich = rpc_status.from_call(error)
    fields = {}
    for detail in rich.details if rich else ():
        bad = error_details_pb2.BadRequest()
        if detail.Unpack(bad):
            fields |= {violation.field: violation.description for violation in bad.field_violations}
    status = {grpc.StatusCode.INVALID_ARGUMENT: 422, grpc.StatusCode.FAILED_PRECONDITION: 409}.get(error.code(), 503)
    return json({"error": error.details(), "fields": fields}, status=status)


async def look_at_stock(app):
    """Warn of what runs out, for as long as the shop is open."""
    while True:
        with tracer.start_as_current_span("shop.look_at_stock"):
            for item_id, name in rows(app, "SELECT id, name FROM item"):
                try:
                    level = await app.ctx.stock.GetLevel(stock_pb2.GetLevelRequest(item_id=item_id), metadata=TOKEN)
                except grpc.aio.AioRpcError as error:
                    log.warning("the warehouse does not answer: %s", error.code().name)
                    break
                if level.pieces < 3:
                    log.info("%s runs out", name)
        await asyncio.sleep(LOOK_EVERY_SECONDS)


async def open_shop(app):
    app.ctx.database = sqlite3.connect(DATABASE, isolation_level=None)
    app.ctx.database.executescript(SCHEMA)
    app.ctx.http = httpx.AsyncClient(base_url=f"http://127.0.0.1:{PORT}")
    app.ctx.channel = grpc.aio.insecure_channel(STOCK)
    app.ctx.stock = stock_pb2_grpc.StockStub(app.ctx.channel)
    app.add_task(look_at_stock(app), name="look_at_stock")


async def close_shop(app):
    await app.cancel_task("look_at_stock", raise_exception=False)
    await app.ctx.channel.close()
    await app.ctx.http.aclose()
    app.ctx.database.close()


app = Sanic("shop", configure_logging=False)
app.blueprint([catalog, orders])
app.add_route(show_rate, "/rates/<currency:alpha>")
app.error_handler.add(grpc.aio.AioRpcError, stock_refused)
app.before_server_start(open_shop)
app.after_server_stop(close_shop)

if __name__ == "__main__":
    options = {"single_process": True} if WORKERS == 1 else {"workers": WORKERS}
    app.run(host="127.0.0.1", port=PORT, access_log=True, motd=False, **options)
