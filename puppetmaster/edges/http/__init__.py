"""The HTTP edge: the operations as REST, WebSockets and server-sent events, the page, and who gets in.

Everything runs on the service's own loop, in the bundle's process: FastAPI on uvicorn.
"""
