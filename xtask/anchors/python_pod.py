"""A bare function in a pod: what `bench apply` compares with. HTTP/1.1 with kept connections, nothing else."""
import asyncio
import json


def handler(event):
    return "Hello, %s!" % event["name"]


class Server(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport, self.data = transport, b""

    def data_received(self, data):
        self.data += data
        while True:
            head, mark, rest = self.data.partition(b"\r\n\r\n")
            if not mark:
                return
            length = 0
            for line in head.split(b"\r\n")[1:]:
                name, _, value = line.partition(b":")
                if name.lower() == b"content-length":
                    length = int(value)
            if len(rest) < length:
                return
            body, self.data = rest[:length], rest[length:]
            answer = json.dumps(handler(json.loads(body or b'{"name": "nobody"}'))).encode()
            self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(answer), answer))


async def main():
    server = await asyncio.get_running_loop().create_server(Server, "0.0.0.0", 8080)
    await server.serve_forever()


asyncio.run(main())
