"""A server and clients of WebSocket around a gateway, made with the package websockets.

Prints `port N` of the server, reads the gateway's address from standard input, and says for each of the paths
`/tunnel` and `/inspect` what came of what a client did, one line of JSON in the end.

Not here: what is expected of it (`websocket_clients.rs`).
"""

import asyncio
import functools
import json
import sys

from websockets.asyncio.client import connect
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed

closes = asyncio.Queue()
open_at = functools.partial(connect, subprotocols=["soap", "chat"], max_size=None)


async def answer(socket):
    """Sends messages back; `close N` closes, `stream N` sends so many messages."""
    try:
        async for message in socket:
            words = message.split() if isinstance(message, str) else []
            if words[:1] == ["close"]:
                await socket.close(int(words[1]), "as asked")
            elif words[:1] == ["stream"]:
                for number in range(int(words[1])):
                    await socket.send(str(number))
            else:
                await socket.send(message)
    except ConnectionClosed:
        pass
    await closes.put(socket.close_code)


async def behave(url):
    found = {}
    async with open_at(url) as socket:
        found["subprotocol"] = socket.subprotocol
        found["compressed"] = bool(socket.protocol.extensions)
        messages = ["grüße", "", b"\x00\xff", "x" * 1_000_000, b"y" * 1_000_000]
        same = []
        for message in messages:
            await socket.send(message)
            same.append(await socket.recv() == message)
        found["echoed"] = all(same)
        await socket.send(["in ", "three ", "parts"])
        found["fragments"] = await socket.recv()
        pong = await socket.ping(b"here?")
        found["pong"] = await asyncio.wait_for(pong, 20) >= 0
        await socket.send("stream 5000")
        found["streamed"] = [await socket.recv() for _ in range(5000)] == [str(n) for n in range(5000)]
    found["closed by the client"] = [socket.close_code, await closes.get()]

    async with open_at(url) as socket:
        await socket.close(4321, "enough")
    found["with a code"] = [socket.close_code, await closes.get()]

    async with open_at(url) as socket:
        await socket.send("close 4001")
        try:
            await socket.recv()
        except ConnectionClosed as closed:
            found["closed by the server"] = [closed.rcvd.code, closed.rcvd.reason, await closes.get()]

    # Many at once.
    async def talk(number):
        async with open_at(url) as socket:
            for turn in range(20):
                await socket.send(f"{number} {turn}")
                if await socket.recv() != f"{number} {turn}":
                    return False
        return True

    found["at once"] = all(await asyncio.gather(*(talk(number) for number in range(50))))
    for _ in range(50):
        await closes.get()
    return found


async def main():
    choose = ["chat"]
    async with serve(answer, "127.0.0.1", 0, subprotocols=choose, max_size=None) as server:
        print("port", server.sockets[0].getsockname()[1], flush=True)
        address = (await asyncio.to_thread(sys.stdin.readline)).strip()
        found = {path: await behave(f"ws://{address}/{path}") for path in ("tunnel", "inspect")}
        print(json.dumps(found), flush=True)


asyncio.run(main())
