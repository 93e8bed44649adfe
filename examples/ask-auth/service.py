"""An authorisation service to try the plugin with: `Authorization: Bearer secret` is kim, who may not `/admin`.

`python3 service.py PORT`; 0 takes a free port. Says on its first line where it listens.
"""

import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Service(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.headers.get("authorization") != "Bearer secret":
            self.say(401, {"www-authenticate": "Bearer"}, b"who are you?\n")
        elif self.headers.get("x-forwarded-uri", "").startswith("/admin"):
            self.say(403, {}, b"not you, kim\n")
        else:
            self.say(200, {"x-user": "kim"}, b"")

    def say(self, status, fields, body):
        self.send_response(status)
        for name, value in {**fields, "content-length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Service)
    print(f"listening on 127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()
