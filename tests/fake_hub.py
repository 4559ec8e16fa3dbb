"""A small hub in a thread: what huggingface_hub asks of one to list, fetch and commit files."""

import base64
import contextlib
import hashlib
import http.server
import json
import re
import threading
import urllib.parse

import huggingface_hub
import huggingface_hub.constants as constants


class Hub:
    """Repositories in memory: `repos[name][commit] = {file: bytes}`, `refs[name][ref] = commit`.

    Attributes:
      gated: names of repositories whose files are refused.
      asked: "METHOD path" of every request.
    """

    def __init__(self):
        self.repos, self.refs, self.gated, self.asked = {}, {}, set(), []
        self.private = {}

    def commit(self, name, files, ref="main"):
        """A new commit on `ref`; its hash."""
        number = sum(map(len, self.repos.values()))
        sha = hashlib.sha1(f"{name} {number}".encode()).hexdigest()
        self.repos.setdefault(name, {})[sha] = dict(files)
        self.refs.setdefault(name, {})[ref] = sha
        return sha

    def find(self, name, revision):
        """(commit, files, '') or (None, None, error code)."""
        if name not in self.repos:
            return None, None, "RepoNotFound"
        sha = self.refs[name].get(revision, revision)
        if sha not in self.repos[name]:
            return None, None, "RevisionNotFound"
        return sha, self.repos[name][sha], ""


def _handler(hub):
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def _send(self, status, body=b"", headers=()):
            body = json.dumps(body).encode() if not isinstance(body, bytes) else body
            self.send_response(status)
            for key, value in dict(headers).items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def _refuse(self, code):
            status = {"RepoNotFound": 404, "RevisionNotFound": 404, "EntryNotFound": 404,
                      "GatedRepo": 403}[code]
            self._send(status, {"error": code}, {"X-Error-Code": code, "X-Error-Message": code})

        def do_GET(self):
            path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
            hub.asked.append(f"{self.command} {path}")
            if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
                sha, files, error = hub.find(found[1], found[2] or "main")
                siblings = [{"rfilename": name} for name in files or ()]
                return self._refuse(error) if error else self._send(
                    200, {"id": found[1], "sha": sha, "siblings": siblings})
            if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/([^/]+)", path):
                sha, files, error = hub.find(found[1], found[2])
                return self._refuse(error) if error else self._send(200, [
                    {"type": "file", "path": n, "size": len(v), "oid": hashlib.sha1(v).hexdigest()}
                    for n, v in files.items()])
            if found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
                sha, files, error = hub.find(found[1], found[2])
                error = error or "GatedRepo" * (found[1] in hub.gated)
                error = error or "EntryNotFound" * (found[3] not in files)
                if error:
                    return self._refuse(error)
                data = files[found[3]]
                return self._send(200, data, {"X-Repo-Commit": sha,
                                              "ETag": f'"{hashlib.sha1(data).hexdigest()}"'})
            return self._send(404, {"error": path})

        do_HEAD = do_GET

        def do_POST(self):
            path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
            body = self.rfile.read(int(self.headers["Content-Length"]))
            hub.asked.append(f"POST {path}")
            if path == "/api/repos/create":
                asked = json.loads(body)
                name = f"{asked.get('organization') or 'me'}/{asked['name']}"
                if name in hub.repos:
                    return self._send(409, {"url": name, "error": "there already"})
                hub.private[name] = asked.get("private") or asked.get("visibility") == "private"
                hub.commit(name, {".gitattributes": b""})
                return self._send(200, {"url": f"http://{self.headers['Host']}/{name}"})
            if path.startswith("/api/validate-yaml"):
                return self._send(200, {"errors": [], "warnings": []})
            if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/preupload/main", path):
                return self._send(200, {"files": [
                    {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                    for f in json.loads(body)["files"]]})
            if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/main", path):
                files = dict(hub.find(found[1], "main")[1])
                for line in body.splitlines():
                    row = json.loads(line)
                    if row["key"] == "file":
                        files[row["value"]["path"]] = base64.b64decode(row["value"]["content"])
                sha = hub.commit(found[1], files)
                return self._send(200, {"commitUrl": f"{hub.url}/{found[1]}/commit/{sha}",
                                        "commitOid": sha, "pullRequestUrl": None})
            return self._send(404, {"error": path})

    return Handler


@contextlib.contextmanager
def serving(cache, monkeypatch):
    """A `Hub` that huggingface_hub asks, with `cache` as its cache, as long as the block lasts."""
    hub = Hub()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    place = f"http://127.0.0.1:{server.server_address[1]}"
    for name, value in {
        "ENDPOINT": place, "HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": False,
        "HUGGINGFACE_CO_URL_TEMPLATE": place + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_DISABLE_XET": True,
    }.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setenv("HF_TOKEN", "hf_of_a_test")
    huggingface_hub.close_session()
    hub.url = place
    hub.stop = server.shutdown
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        huggingface_hub.close_session()
