"""A browser without a network: it calls a WSGI application, and keeps its cookies."""

import html
import io
import re
import wsgiref.util
import wsgiref.validate
from urllib.parse import urlencode, urlsplit


class Visit:
    """A reply: its status, headers and body."""

    def __init__(self, status, headers, body):
        self.status = int(status.split()[0])
        self.headers = {name.lower(): value for name, value in headers}
        self.body = body

    @property
    def text(self):
        return self.body.decode("utf-8")

    @property
    def words(self):
        """The text as a person reads it: without scripts, styles and elements."""
        text = re.sub(r"<(script|style)\b.*?</\1>", " ", self.text, flags=re.S)
        return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", text)).split())

    def forms(self, action):
        """The fields of the forms that are sent to an address that ends so."""
        found = []
        for address, content in re.findall(
            r'<form[^>]*action="([^"]*)"[^>]*>(.*?)</form>', self.text, re.S
        ):
            if address.endswith(action):
                fields = re.findall(r'<input type="hidden" name="([^"]*)" value="([^"]*)"', content)
                found.append({name: html.unescape(value) for name, value in fields})
        return found


class Visitor:
    """A browser. app: the application. mount: the path that it is below. user: who uses it."""

    host = "app.example"

    def __init__(self, app, mount="", user="ann", **environ):
        self.app = wsgiref.validate.validator(app)
        self.mount, self.environ = mount, dict(environ)
        self.cookies = {}
        if user is not None:
            self.environ["REMOTE_USER"] = user

    def open(self, address, method="GET", body=b"", **environ):
        """Start a request. Returns the status, the headers and the iterator of the body."""
        parts = urlsplit(address)
        values = {
            "REQUEST_METHOD": method,
            "SCRIPT_NAME": self.mount,
            "PATH_INFO": parts.path,
            "QUERY_STRING": parts.query,
            "HTTP_HOST": self.host,
            "SERVER_PROTOCOL": "HTTP/1.1",
            "wsgi.input": io.BytesIO(body),
            "wsgi.multithread": True,
        }
        values.update(self.environ, **environ)
        values = {name: value for name, value in values.items() if value is not None}
        wsgiref.util.setup_testing_defaults(values)
        if environ.get("HTTP_HOST", self.host) is None:
            del values["HTTP_HOST"]
        if self.cookies:
            values["HTTP_COOKIE"] = "; ".join(f"{one}={two}" for one, two in self.cookies.items())
        started = []
        chunks = self.app(
            values, lambda status, headers, exc_info=None: started.append((status, headers))
        )
        (status, headers) = started[0]
        for name, value in headers:
            if name.lower() == "set-cookie":
                key, _, rest = value.partition("=")
                self.cookies[key] = rest.partition(";")[0]
        return status, headers, chunks

    def get(self, address, **environ):
        """Return the reply to a GET."""
        status, headers, chunks = self.open(address, **environ)
        try:
            body = b"".join(chunks)
        finally:
            chunks.close()
        return Visit(status, headers, body)

    def post(self, address, fields, **environ):
        """Send a form, as from a page of the application."""
        body = urlencode(fields).encode()
        options = {
            "method": "POST",
            "body": body,
            "CONTENT_TYPE": "application/x-www-form-urlencoded",
            "CONTENT_LENGTH": str(len(body)),
            "HTTP_ORIGIN": f"http://{self.host}",
        }
        return self.get(address, **dict(options, **environ))
