"""A Hub on localhost for tests: models and datasets in memory, for the real clients, without a server framework.

    with LocalHub({"hf_token": "someone"}) as hub:
        subprocess.run(command, env={**os.environ, "HF_ENDPOINT": hub.endpoint, "HF_HUB_DISABLE_XET": "1"})
    hub.repositories["models", "someone/tiny"].files()

`HF_ENDPOINT` has to be set before `huggingface_hub` is imported, hence the processes.
"""

import base64
import hashlib
import json
import math
import re
import threading
import time
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

import yaml
from huggingface_hub.repocard import REGEX_YAML_BLOCK

LONGEST_PAGE = 1000  # models or datasets of a listing
LFS_SUFFIXES = (".bin", ".parquet", ".png", ".pt", ".safetensors")
PARTS = {"KIND": "(models|datasets)", "DATASETS": "(?:(datasets)/)?", "ID": "([^/]+/[^/]+?)", "REV": "([^/]+)"}
ROUTES = []


class LocalHub:
    """Serves while it is open.

    Attributes:
        endpoint: what `HF_ENDPOINT` is to be.
        users: names by token; each may write below its own name.
        repositories: by kind ("models" or "datasets") and id.
        lfs: large files by their SHA-256.
        uploads: (where, content) of all that was ever sent: bodies of requests, and the files that were committed.
        faults: what is to go wrong; for each request the first that fits.
    """

    def __init__(self, users: dict[str, str]):
        self.users = users
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.lfs: dict[str, bytes] = {}
        self.uploads: list[tuple[str, bytes]] = []
        self.faults: list[Fault] = []
        self.lock = threading.Lock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("HandlerOfThis", (Handler,), {"hub": self}))
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> "LocalHub":
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self.server.shutdown()
        self.server.server_close()

    def add(self, kind: str, repo_id: str, access: str = "public") -> "Repository":
        return self.repositories.setdefault((kind, repo_id), Repository(kind, repo_id, access))

    def uploads_with(self, text: str) -> list[str]:
        """Where a text was sent to."""
        return [where for where, content in self.uploads if text.encode() in content]

    def next_fault(self, request: str) -> "Fault":
        """The fault that is due for a request, counted; one without trouble where none is."""
        with self.lock:
            due = next((each for each in self.faults if each.times > 0 and re.search(each.pattern, request)), Fault(""))
            due.times -= 1
        return due


@dataclass
class Fault:
    """What goes wrong with the requests whose "METHOD path?query" holds a pattern.

    Attributes:
        pattern: regular expression.
        status: answered instead of doing anything, with `headers` and `body`.
        drop: "request" closes the connection in the middle of the request, which has no effect then; "reply" closes it
            one byte before the end of the reply.
        delay: seconds until the request is worked on.
        times: how many requests it still meets.
    """

    pattern: str
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    drop: str = ""
    delay: float = 0
    times: float = float("inf")
    body: bytes = b""


@dataclass
class Repository:
    """Files by path for each commit, and branches by name.

    Attributes:
        access: "public", "private" (only its owner knows of it) or "gated" (only its owner reads files).
    """

    kind: str
    id: str
    access: str = "public"
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def __post_init__(self):
        self.add_commit("main", {})

    @property
    def owner(self) -> str:
        return self.id.split("/")[0]

    @property
    def path(self) -> str:
        return f"/{self.id}" if self.kind == "models" else f"/{self.kind}/{self.id}"

    def add_commit(self, branch: str, files: dict[str, bytes]) -> str:
        commit = hashlib.sha1(f"{self.path}/{len(self.commits)}".encode()).hexdigest()
        self.commits[commit] = files
        self.branches[branch] = commit
        return commit

    def commit(self, revision: str = "main") -> str:
        """The commit that a branch, or a commit's own name, stands for."""
        commit = self.branches.get(revision, revision)
        if commit not in self.commits:
            raise Refusal(404, "RevisionNotFound")
        return commit

    def files(self, revision: str = "main") -> dict[str, bytes]:
        return self.commits[self.commit(revision)]

    def tags(self) -> list[str]:
        """The card's own, and what it names as library, task and base model."""
        card = front_matter(self.files().get("README.md", b""))
        base_models = card.get("base_model") or []
        named = [card[name] for name in ("library_name", "pipeline_tag") if name in card]
        named += [f"base_model:{each}" for each in ([base_models] if isinstance(base_models, str) else base_models)]
        return [*(card.get("tags") or []), *named]


# ---- requests and replies ----


@dataclass
class Reply:
    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


class Refusal(Exception):  # noqa: N818
    """Ends a request with an error, which clients know by its code or else by its status."""

    def __init__(self, status: int, code: str = "", message: str = ""):
        headers = {"X-Error-Code": code} if code else {}
        self.reply = Reply(status=status, headers={**headers, "X-Error-Message": message or code})


@dataclass
class Request:
    hub: LocalHub
    method: str
    path: str
    query: dict[str, str]
    user: str | None
    body: bytes

    def json(self) -> dict:
        return json.loads(self.body)

    def repository(self, kind: str, repo_id: str, *, read: bool = False, write: bool = False) -> Repository:
        """A repository that this user may see, or read, or write."""
        found = self.hub.repositories.get((kind or "models", repo_id))
        owned = found is not None and found.owner == self.user
        if found is None or (found.access == "private" and not owned):
            raise Refusal(404 if self.user else 401, "RepoNotFound")
        if found.access == "gated" and read and not owned:
            raise Refusal(403 if self.user else 401, "GatedRepo")
        if write and not owned:
            raise Refusal(403 if self.user else 401, message="You have no right to write here")
        return found


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    hub: LocalHub

    def handle_request(self) -> None:
        address = urlsplit(self.path)
        fault = self.hub.next_fault(f"{self.command} {self.path}")
        length = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(length // 2 if fault.drop == "request" else length)
        self.hub.uploads.append((f"{self.command} {self.path}", body))
        time.sleep(fault.delay)
        self.close_connection |= bool(fault.drop)
        if fault.drop == "request":
            return
        try:
            query = {name: ",".join(values) for name, values in parse_qs(address.query).items()}
            request = Request(self.hub, self.command, address.path, query, self.user(), body)
            reply = Reply(fault.body, status=fault.status, headers=fault.headers) if fault.status else answer(request)
        except Refusal as refusal:
            reply = refusal.reply
        self.send_response(reply.status)
        length = len(reply.body) + (fault.drop == "reply")
        for name, value in {**reply.headers, "Content-Length": length}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(reply.body)

    do_GET = do_HEAD = do_POST = do_PUT = handle_request  # noqa: N815

    def user(self) -> str | None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in self.hub.users:
            raise Refusal(401, message="Invalid credentials in Authorization header")
        return self.hub.users.get(token)

    def log_message(self, *_) -> None:
        pass


def on(method: str, pattern: str):
    """Registers the answer to requests; the groups of the pattern, with `PARTS` filled in, become its arguments."""
    for name, expression in PARTS.items():
        pattern = pattern.replace(name, expression)

    def register(function):
        ROUTES.append((method, re.compile(pattern), function))
        return function

    return register


def answer(request: Request) -> Reply:
    for method, pattern, function in ROUTES:
        found = pattern.fullmatch(request.path)
        if found and method == request.method.replace("HEAD", "GET"):
            reply = function(request, *(unquote(group or "") for group in found.groups()))
            return reply if isinstance(reply, Reply) else Reply(json.dumps(reply).encode())
    raise Refusal(404, message=f"There is no {request.method} {request.path}")


def git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@cache
def front_matter(card: bytes) -> dict:
    """A card's metadata as JSON holds it."""
    return json.loads(json.dumps(yaml.safe_load(metadata_of(card.decode())) or {}, default=str))


def metadata_of(card: str) -> str:
    """The YAML at the beginning."""
    found = REGEX_YAML_BLOCK.search(card)
    return found[2] if found else ""


# ---- what the Hub refuses in the metadata of a card ----

LICENSES = {
    *("apache-2.0", "mit", "openrail", "bsd-3-clause", "cc-by-4.0", "cc-by-nc-4.0", "gpl-3.0", "llama3", "gemma"),
    *("other", "unknown"),
}
HUB_ID = re.compile(r"(?:[A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*", re.ASCII)
DATASET_TYPE = re.compile(r"(?:[\w-]+/)?[\w.-]+", re.ASCII)
LANGUAGE = re.compile("[a-z]{2,3}|code|multilingual")


class Yaml12Loader(yaml.SafeLoader):
    """As the Hub reads a card: 1e-4 is a number."""


Yaml12Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d[\d_]*(?:\.[\d_]*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def card_errors(card: str, kind: str) -> list[str]:
    """What the Hub refuses in a card's metadata; of a dataset's, not all that it would."""
    try:
        metadata = yaml.load(metadata_of(card), Yaml12Loader) or {}
    except yaml.YAMLError as error:
        return [f"YAML Metadata Error: {error}"]
    if not isinstance(metadata, dict):
        return ["Metadata must be an object"]
    errors = []
    for name, allowed in (("license", LICENSES.__contains__), ("language", LANGUAGE.fullmatch)):
        found = metadata.get(name, [])
        if not all(isinstance(each, str) and allowed(each) for each in as_list(found)):
            errors.append(f'"{name}" with value "{found}" is not valid')
    for name in ("library_name", "pipeline_tag", "license_name", "license_link"):
        if name in metadata and not is_word(metadata[name]):
            errors.append(f'"{name}" must be a string')
    for name in ("tags", "datasets", "metrics"):
        found = metadata.get(name, [])
        if not isinstance(found, list) or not all(map(is_word, found)):
            errors.append(f'"{name}" must be an array of strings')
    for name in ("datasets", "base_model") if kind == "models" else ():
        found = as_list(metadata.get(name, []))
        if not all(is_word(each) and HUB_ID.fullmatch(each) for each in found):
            errors.append(f'"{name}" with value "{found}" is not valid')
    return errors + (index_errors(metadata["model-index"]) if "model-index" in metadata else [])


def index_errors(index) -> list[str]:
    """What the Hub refuses in a `model-index`."""
    if not isinstance(index, list):
        return ['"model-index" must be an array']
    errors = []
    for model in index:
        if not is_word(model.get("name")):
            errors.append('"model-index[0].name" must be a string')
        for result in model.get("results", ["missing"]):
            if not isinstance(result, dict) or not {"task", "dataset", "metrics"} <= result.keys():
                errors.append('"model-index[0].results" must have a task, a dataset and metrics')
                continue
            dataset = result["dataset"]
            if not is_word(result["task"].get("type")):
                errors.append('"task.type" must be a string')
            if not is_word(dataset.get("type")) or not DATASET_TYPE.fullmatch(dataset["type"]):
                errors.append(f'"dataset.type" with value "{dataset.get("type")}" fails to match the required pattern')
            if not is_word(dataset.get("name")):
                errors.append('"dataset.name" must be a string')
            errors += [
                f'"dataset.{name}" must be a string'
                for name in ("config", "split", "revision")
                if name in dataset and not is_word(dataset[name])
            ]
            for metric in result["metrics"]:
                if not is_word(metric.get("type")) or not is_word(metric.get("name", "unnamed")):
                    errors.append('"metrics.type" must be a string')
                value = metric.get("value")
                if value is None or (isinstance(value, float) and not math.isfinite(value)):
                    errors.append(f'"metrics.value" with value "{value}" is not valid')
    return errors


def is_word(value) -> bool:
    return isinstance(value, str) and bool(value.strip())


def as_list(value) -> list:
    return value if isinstance(value, list) else [value]


# ---- users and repositories ----


@on("GET", "/api/whoami-v2")
def whoami(request: Request) -> dict:
    if request.user is None:
        raise Refusal(401, message="Invalid username or password.")
    return {"type": "user", "name": request.user, "orgs": []}


@on("POST", "/api/repos/create")
def create(request: Request) -> Reply:
    wanted = request.json()
    if request.user is None or wanted["organization"] not in (None, request.user):
        raise Refusal(403 if request.user else 401, message="You have no right to create a repository here")
    kind, repo_id = f"{wanted.get('type', 'model')}s", f"{request.user}/{wanted['name']}"
    known = (kind, repo_id) in request.hub.repositories
    repository = request.hub.add(kind, repo_id, wanted.get("visibility", "public"))
    return Reply(json.dumps({"url": request.hub.endpoint + repository.path}).encode(), 409 if known else 200)


@on("GET", "/api/KIND/ID/auth-check(/write)?")
def auth_check(request: Request, kind: str, repo_id: str, write: str) -> dict:
    request.repository(kind, repo_id, read=True, write=bool(write))
    return {}


@on("POST", "/api/KIND/ID/branch/REV")
def create_branch(request: Request, kind: str, repo_id: str, branch: str) -> dict:
    repository = request.repository(kind, repo_id, write=True)
    if branch in repository.branches:
        raise Refusal(409, message=f"There is a branch {branch}")
    repository.branches[branch] = repository.commit(request.json().get("startingPoint", "main"))
    return {}


@on("GET", "/api/KIND/ID(?:/revision/REV)?")
def repository_info(request: Request, kind: str, repo_id: str, revision: str) -> dict:
    repository = request.repository(kind, repo_id)
    files = repository.files(revision or "main")
    card = front_matter(files.get("README.md", b""))
    known = {
        "sha": repository.commit(revision or "main"),
        "lastModified": "2026-01-01T00:00:00.000Z",
        "private": repository.access == "private",
        "tags": repository.tags(),
        "siblings": [{"rfilename": path} for path in files],
        "cardData": card,
        "model-index": card.get("model-index"),
    }
    wanted = request.query.get("expand", ",".join(known)).split(",")
    return {"id": repository.id} | {name: value for name, value in known.items() if name in wanted}


@on("GET", "/api/KIND")
def listing(request: Request, kind: str) -> Reply:
    """A page, with a link to the next one."""
    query = request.query
    found = [
        each
        for each in request.hub.repositories.values()
        if (each.kind, each.owner) == (kind, query.get("author", each.owner))
        and (each.access != "private" or each.owner == request.user)
        and query.get("search", "").lower() in each.id.lower()
        and query.get("filter", "") in ("", *each.tags())
    ]
    start = int(query.get("cursor", 0))
    end = start + min(int(query.get("limit", LONGEST_PAGE)), LONGEST_PAGE)
    page = [repository_info(request, kind, each.id, "main") for each in found[start:end]]
    following = [(name, value) for name, values in query.items() for value in values.split(",") if name != "cursor"]
    address = f"{request.hub.endpoint}{request.path}?{urlencode([*following, ('cursor', end)])}"
    headers = {"Link": f'<{address}>; rel="next"'} if end < len(found) else {}
    return Reply(json.dumps(page).encode(), headers=headers)


# ---- reading files ----


@on("GET", "/api/KIND/ID/tree/REV(?:/(.+))?")
def tree(request: Request, kind: str, repo_id: str, revision: str, folder: str) -> list[dict]:
    files = request.repository(kind, repo_id, read=True).files(revision)
    start = f"{folder}/" if folder else ""
    entries = {}
    for path, content in files.items():
        for slash in re.finditer("/", path):
            entries[path[: slash.start()]] = {"type": "directory", "oid": git_hash(path.encode())}
        entries[path] = {"type": "file", "oid": git_hash(content), "size": len(content)}
        if path.endswith(LFS_SUFFIXES):
            entries[path]["lfs"] = {"oid": sha256(content), "size": len(content), "pointerSize": 134}
    found = [{"path": path, **entry} for path, entry in entries.items() if path.startswith(start)]
    if folder and not found:
        raise Refusal(404, "EntryNotFound")
    return [each for each in found if request.query.get("recursive") == "true" or "/" not in each["path"][len(start) :]]


@on("GET", "/DATASETSID/resolve/REV/(.+)")
def resolve(request: Request, kind: str, repo_id: str, revision: str, path: str) -> Reply:
    repository = request.repository(kind, repo_id, read=True)
    content = repository.files(revision).get(path)
    headers = {"X-Repo-Commit": repository.commit(revision)}
    if content is None:
        raise Refusal(404, "EntryNotFound")
    if path.endswith(LFS_SUFFIXES):
        headers |= {"X-Linked-ETag": f'"{sha256(content)}"', "X-Linked-Size": str(len(content))}
    return Reply(content, headers={**headers, "ETag": f'"{git_hash(content)}"'})


# ---- writing files ----


@on("POST", "/api/validate-yaml")
def validate_card(request: Request) -> Reply:
    content = request.json()
    errors = [{"message": each} for each in card_errors(content["content"], f"{content['repoType']}s")]
    return Reply(json.dumps({"errors": errors, "warnings": []}).encode(), 400 if errors else 200)


@on("POST", "/api/KIND/ID/preupload/REV")
def preupload(request: Request, kind: str, repo_id: str, revision: str) -> dict:
    """Says which files are sent before the commit as large ones, which within it, and what is here by their names."""
    known = request.repository(kind, repo_id, write="create_pr" not in request.query).files(revision)
    files = []
    for path in (file["path"] for file in request.json()["files"]):
        mode, name = ("lfs", sha256) if path.endswith(LFS_SUFFIXES) else ("regular", git_hash)
        oid = name(known[path]) if path in known else None
        files.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
    return {"files": files}


@on("POST", r"/DATASETSID\.git/info/lfs/objects/batch")
def lfs_batch(request: Request, kind: str, repo_id: str) -> dict:
    """Says where to send the large files that are not here yet."""
    request.repository(kind, repo_id, read=True)
    if request.user is None:
        raise Refusal(401, message="Only users send files")
    objects = [{"oid": each["oid"], "size": each["size"]} for each in request.json()["objects"]]
    for each in objects:
        if each["oid"] not in request.hub.lfs:
            each["actions"] = {"upload": {"href": f"{request.hub.endpoint}/{repo_id}/lfs/{each['oid']}"}}
    return {"transfer": "basic", "objects": objects}


@on("PUT", "/ID/lfs/(.+)")
def lfs_upload(request: Request, repo_id: str, oid: str) -> dict:
    if sha256(request.body) != oid:
        raise Refusal(400, message="The content has another SHA-256")
    request.hub.lfs[oid] = request.body
    return {}


@on("POST", "/api/KIND/ID/commit/REV")
def commit(request: Request, kind: str, repo_id: str, branch: str) -> dict:
    """A commit on a branch, or on one of its own for a pull request, which any user may open."""
    proposed = "create_pr" in request.query
    repository = request.repository(kind, repo_id, write=not proposed)
    files = dict(repository.files(branch))
    for key, value in ((line["key"], line["value"]) for line in map(json.loads, request.body.splitlines())):
        if key == "header" and value.get("parentCommit") not in (None, repository.commit(branch)):
            raise Refusal(412, message="There was another commit since")
        if key == "deletedFile":
            del files[value["path"]]
        if key == "deletedFolder":
            files = {path: content for path, content in files.items() if not path.startswith(value["path"])}
        if key in ("file", "lfsFile"):
            content = base64.b64decode(value["content"]) if key == "file" else request.hub.lfs[value["oid"]]
            if value["path"] == "README.md" and (errors := card_errors(content.decode(), kind)):
                raise Refusal(400, message=errors[0])
            files[value["path"]] = content
            request.hub.uploads.append((f"{kind}/{repo_id}/{value['path']}", content))
    number = 1 + sum(name.startswith("refs/pr/") for name in repository.branches)
    oid = repository.add_commit(f"refs/pr/{number}" if proposed else branch, files)
    page = f"{request.hub.endpoint}{repository.path}"
    pull_request = {"pullRequestUrl": f"{page}/discussions/{number}"} if proposed else {}
    return {"commitUrl": f"{page}/commit/{oid}", "commitOid": oid, **pull_request}
