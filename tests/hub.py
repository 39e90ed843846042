"""A stand-in for the hub: a server on this machine that answers its clients from folders.

It has revisions (commits, branches, tags), listings, files with headers and byte ranges, large
files behind a redirect to another host, gated repositories and downloads that break off; and it
takes new repositories and commits of files, where it is given a folder for them. It has no Xet
storage, no rate limits and no pages of long listings; any token will do for writing.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

LARGE = {".safetensors", ".parquet", ".bin"}  # kept in LFS
ASKED = "(?:/(revision|tree|paths-info)/([^/]+))?"
API = re.compile(rf"/api/(models|datasets)/([^/]+/[^/]+){ASKED}(.*)")
WRITE = re.compile(r"/api/models/([^/]+/[^/]+)/(preupload|commit)/([^/]+)")
BATCH = re.compile(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch")
FILE = re.compile(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")


@dataclass
class Repository:
    """Commits of a repository: each a folder; branches and tags name some of them."""

    commits: dict[str, Path] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    gated: bool = False


class Refused(Exception):
    """An answer that is an error: status and the hub's code for it."""


@dataclass
class Hub:
    """What is served, what went wrong on purpose, and what was asked.

    Attributes
    ----------
    breaks : files of which no download gets further than their middle
    asked : method, path, status of each request
    sent : (repository, file) of each file whose bytes were sent
    writes : folder for what is sent to it; without one, nothing may be
    large : digest -> bytes of the large files that were sent to it
    """

    url: str = ""
    writes: Path | None = None
    large: dict[str, bytes] = field(default_factory=dict)
    repositories: dict[tuple[str, str], Repository] = field(default_factory=dict)
    breaks: set[str] = field(default_factory=set)
    asked: list[tuple[str, str, int]] = field(default_factory=list)
    sent: list[tuple[str, str]] = field(default_factory=list)

    def publish(self, name: str, folder: Path, *refs: str, kind: str = "models") -> str:
        """Serve a folder as a new commit, to which `refs` (main, where none is said) move."""
        digest = hashlib.sha1(name.encode())
        for path in _files(folder):
            digest.update(f"{path.relative_to(folder)} {_sha(path)}".encode())
        commit = digest.hexdigest()
        repository = self.repositories.setdefault((kind, name), Repository())
        repository.commits[commit] = folder
        repository.refs |= dict.fromkeys(refs or ("main",), commit)
        return commit

    def find(self, kind: str, name: str, revision: str) -> tuple[str, Path]:
        """Commit and folder of a revision."""
        repository = self.repositories.get((kind, name))
        if repository is None:
            raise Refused(404, "RepoNotFound", "Repository not found")
        commit = repository.refs.get(revision, revision)
        if commit not in repository.commits:
            raise Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit, repository.commits[commit]

    def check_gate(self, kind: str, name: str) -> None:
        """A gated repository can be listed; its files are refused."""
        if self.repositories[kind, name].gated:
            raise Refused(403, "GatedRepo", f"Access to model {name} is restricted")

    def unanswered(self) -> list[tuple[str, str, int]]:
        """Requests of a kind that this stand-in does not know."""
        return [each for each in self.asked if each[2] == 501]

    def files_of(self, name: str) -> list[str]:
        """Files of a repository whose bytes were sent, sorted."""
        return sorted(file for repository, file in self.sent if repository == name)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _sha(path: Path, kind: str = "sha256") -> str:
    return hashlib.new(kind, path.read_bytes()).hexdigest()


def _entry(path: Path, folder: Path) -> dict:
    """A line of a listing."""
    name = path.relative_to(folder).as_posix()
    if path.is_dir():
        return {"type": "directory", "oid": hashlib.sha1(name.encode()).hexdigest(), "size": 0,
                "path": name}  # fmt: skip
    size = path.stat().st_size
    entry = {"type": "file", "oid": _sha(path, "sha1"), "size": size, "path": name}
    lfs = {"oid": _sha(path), "size": size, "pointerSize": 134}
    return entry | ({"lfs": lfs} if path.suffix in LARGE else {})


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *arguments: object) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_PUT = do_GET

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = urlsplit(self.path)
        path, query = parts.path, parse_qs(parts.query)
        try:
            if self.command in ("POST", "PUT") and self._written(path, body):
                pass
            elif path.startswith("/cdn/"):
                self._bytes(*path.removeprefix("/cdn/").split("/", 3))
            elif (
                path == "/api/agent-harnesses"
            ):  # which programs call: the clients ask on their own
                self._send(200, b'{"harnesses": {}}')
            elif match := API.fullmatch(path):
                self._api(*map(unquote, (part or "" for part in match.groups())), query, body)
            elif match := FILE.fullmatch(path):
                kind, name, revision, file = match.groups()
                self._file("datasets" if kind else "models", name, unquote(revision), unquote(file))
            else:
                self._send(501, b"")
        except Refused as refused:
            status, code, message = refused.args
            told = {"X-Error-Code": code, "X-Error-Message": message}
            self._send(status, json.dumps({"error": message}).encode(), told)

    def _written(self, path: str, body: bytes) -> bool:
        """Answer a request that writes; whether it is one."""
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            self._check_token()
            self.hub.repositories.setdefault(("models", name), Repository())
            answer = {"url": f"{self.hub.url}/{name}"}
        elif path == "/api/validate-yaml":
            answer = {"errors": [], "warnings": []}
        elif path.startswith("/put/"):
            self.hub.large[path.removeprefix("/put/")] = body
            answer = {}
        elif BATCH.fullmatch(path):
            objects = json.loads(body)["objects"]
            href = f"{self.hub.url}/put"
            actions = [
                {**o, "actions": {"upload": {"href": f"{href}/{o['oid']}"}}} for o in objects
            ]
            answer = {"transfer": "basic", "objects": actions}
        elif match := WRITE.fullmatch(path):
            self._check_token()
            answer = getattr(self, f"_{match[2]}")(match[1], body)
        else:
            return False
        self._send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})
        return True

    def _check_token(self) -> None:
        if self.hub.writes is None or "Authorization" not in self.headers:
            raise Refused(401, "Unauthorized", "Invalid username or password.")

    def _preupload(self, name: str, body: bytes) -> dict:
        paths = [each["path"] for each in json.loads(body)["files"]]
        modes = {path: "lfs" if Path(path).suffix in LARGE else "regular" for path in paths}
        return {
            "files": [
                {"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": None}
                for path, mode in modes.items()
            ]
        }

    def _commit(self, name: str, body: bytes) -> dict:
        lines = [json.loads(line) for line in body.splitlines()]
        folder = self.hub.writes / name / str(len(self.hub.repositories["models", name].commits))
        for value in (line["value"] for line in lines if line["key"] in ("file", "lfsFile")):
            path = folder / value["path"]
            path.parent.mkdir(parents=True, exist_ok=True)
            large = "oid" in value
            content = self.hub.large[value["oid"]] if large else base64.b64decode(value["content"])
            path.write_bytes(content)
        commit = self.hub.publish(name, folder)
        url = f"{self.hub.url}/{name}/commit/{commit}"
        return {"success": True, "commitOid": commit, "commitUrl": url, "hookOutput": ""}

    def _api(self, kind, name, what, revision, rest, query, body) -> None:
        commit, folder = self.hub.find(kind, name, revision or "main")
        if what in ("", "revision"):
            files = [{"rfilename": path.relative_to(folder).as_posix()} for path in _files(folder)]
            content = {"id": name, "sha": commit, "siblings": files, "tags": [], "private": False}
        elif what == "tree":
            start = folder / rest.strip("/")
            if not start.is_dir():
                raise Refused(404, "EntryNotFound", f"{rest} does not exist")
            deep = query.get("recursive", ["false"])[0].lower() in ("true", "1")
            found = sorted(start.rglob("*") if deep else start.iterdir())
            content = [_entry(path, folder) for path in found]
        else:
            asked = parse_qs(body.decode())["paths"]
            found = [folder / path for path in asked if path and (folder / path).exists()]
            content = [_entry(path, folder) for path in found]
        self._send(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _file(self, kind: str, name: str, revision: str, file: str) -> None:
        commit, folder = self.hub.find(kind, name, revision)
        self.hub.check_gate(kind, name)
        path = folder / file
        known = {"X-Repo-Commit": commit}
        if not path.is_file():
            raise Refused(404, "EntryNotFound", f"{file} does not exist")
        if path.suffix not in LARGE:
            return self._bytes(kind, *name.split("/"), f"{commit}/{file}", **known)
        linked = {"X-Linked-Size": str(path.stat().st_size), "X-Linked-ETag": f'"{_sha(path)}"'}
        elsewhere = self.hub.url.replace("127.0.0.1", "localhost")
        there = {"Location": f"{elsewhere}/cdn/{kind}/{name}/{commit}/{file}"}
        return self._send(302, b"", {**known, **linked, **there})

    def _bytes(self, kind: str, owner: str, name: str, place: str, **known: str) -> None:
        commit, _, file = place.partition("/")
        path = self.hub.find(kind, f"{owner}/{name}", commit)[1] / file
        content, status, first = path.read_bytes(), 200, 0
        headers = {"ETag": f'"{_sha(path, "sha1")}"', "Accept-Ranges": "bytes", **known}
        if asked := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            first, last = int(asked[1]), int(asked[2] or len(content) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
            content, status = content[first : last + 1], 206
        if self.command == "GET":
            self.hub.sent.append((f"{owner}/{name}", file))
        stop = max(0, path.stat().st_size // 2 - first) if file in self.hub.breaks else None
        self._send(status, content, headers, stop)

    def _send(
        self, status: int, content: bytes, headers: dict | None = None, stop: int | None = None
    ) -> None:
        """An answer; with `stop` its body ends there and the connection is closed."""
        self.hub.asked.append((self.command, self.path, status))
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[:stop])
        self.close_connection = stop is not None or self.close_connection


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub without repositories, while the block runs; `url` is what HF_ENDPOINT takes."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        hub.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield hub
        server.shutdown()
        thread.join()
