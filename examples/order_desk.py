"""An order desk: an order and its event are written in one transaction.

Both are in the PostgreSQL database of Tidings. Members of the topic `orders` receive `order.placed` for each order,
once and in the order of the commits, also if they were away. An order that is refused is not announced.

    export TIDINGS_DATABASE_URL=postgresql+asyncpg://... TIDINGS_SECRET_KEY=...
    tidings migrate
    uvicorn --factory order_desk:make_app
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, HTTPException
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlmodel import Field, SQLModel

from tidings import create_app
from tidings.settings import Settings

STOCK = 100
PUBLISH = text("SELECT tidings_publish('orders', 'order.placed', :data, :client_id)")


class NewOrder(SQLModel):
    item: str = Field(min_length=1, max_length=100)
    quantity: int = Field(gt=0)


class Order(NewOrder, table=True):
    __tablename__ = "customer_order"

    id: int | None = Field(default=None, primary_key=True)


def make_app(settings: Settings | None = None) -> FastAPI:
    """`settings`: of Tidings; None: from the environment."""
    settings = settings or Settings()
    tidings = create_app(settings)
    engine = create_async_engine(settings.database)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with engine.begin() as connection:
            await connection.run_sync(SQLModel.metadata.create_all)
        async with tidings.lifespan():
            yield
        await engine.dispose()

    app = FastAPI(lifespan=lifespan)

    @app.post("/orders", status_code=201)
    async def place(new: NewOrder) -> Order:
        order = Order.model_validate(new)
        async with AsyncSession(engine, expire_on_commit=False) as session, session.begin():
            session.add(order)
            await session.flush()  # it has its id now
            values = {"data": order.model_dump_json(), "client_id": f"order-{order.id}-placed"}
            await session.execute(PUBLISH, values)
            if order.quantity > STOCK:
                raise HTTPException(409, "sold out")  # both are rolled back
        return order

    app.mount("/", tidings)
    return app
