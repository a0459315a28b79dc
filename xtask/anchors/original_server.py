"""The fork server of the anchor, with the steps of the original's: it runs chrooted in the Zygote's root.

accept, receive the descriptors of a root and of cgroup.procs, fork; the child enters root and cgroup, unshares, binds its
socket, forks and ends; the grandchild runs the bootstrap file: import the handler, accept, parse, call, answer.
"""
import asyncio  # noqa: F401  the original's server imports it
import ctypes
import http.client
import importlib
import json
import os
import socket
import struct
import sys
import traceback
from urllib.parse import urlparse

CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWPID = 0x04000000, 0x08000000, 0x20000000
libc = ctypes.CDLL(None, use_errno=True)


def serve(listener):
    sys.path.append("/handler")
    function = importlib.import_module("f").f
    while True:
        connection, _ = listener.accept()
        reader = connection.makefile("rb", buffering=65536)
        _, path, _ = reader.readline().decode("iso-8859-1").rstrip("\r\n").split(None, 2)
        headers = http.client.parse_headers(reader)
        urlparse(path)
        body = reader.read(int(headers.get("Content-Length", 0)))
        answer = json.dumps(function(json.loads(body) if body else {})).encode()
        connection.sendall(b"HTTP/1.1 200 OK\r\n")
        connection.sendall(b"Content-Type: application/json\r\n")
        connection.sendall(f"Content-Length: {len(answer)}\r\n".encode())
        connection.sendall(b"Connection: close\r\n")
        connection.sendall(b"\r\n")
        connection.sendall(answer)
        connection.close()


def start():
    if libc.unshare(CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWPID) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind("/host/ol.sock")
    listener.listen(1)
    if os.fork() > 0:
        os._exit(0)
    with open("/host/bootstrap.py", encoding="utf-8") as file:
        code = file.read()
    try:
        exec(code, {"serve": serve, "listener": listener})
    except Exception:
        traceback.print_exc()
    os._exit(1)


def main():
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    server.bind("/host/zygote.sock")
    server.listen(16)
    while True:
        connection, _ = server.accept()
        _, (root, group), _, _ = socket.recv_fds(connection, 8, 2)
        child = os.fork()
        if child:
            os.close(root)
            os.close(group)
            os.waitpid(child, 0)
            connection.sendall(struct.pack("I", child))
            connection.close()
            continue
        server.close()
        os.fchdir(root)
        os.chroot(".")
        os.close(root)
        os.write(group, str(os.getpid()).encode())
        os.close(group)
        start()


main()
