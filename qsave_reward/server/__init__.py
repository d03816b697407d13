"""The reward server: `create_app(scorer)` is an ASGI application, `qsave serve` runs it."""
