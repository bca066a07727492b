"""Models by Hub id, downloaded with huggingface_hub from a stand-in of the Hub on this machine."""

import functools
import json
import os
import shutil
import subprocess
import sys
import time

import pytest
from hub_server import Repository, commit_of, serving

from edgekit.errors import CheckpointError, FileError, UsageError
from edgekit.formats import hub, hub_cache
from edgekit.formats.hub_files import select

utils = pytest.importorskip("huggingface_hub.utils")
hf_api = pytest.importorskip("huggingface_hub.hf_api")
INDEX = "model.safetensors.index.json"
FOLDER = [
    "config.json", "generation_config.json", "tokenizer_config.json", "tokenizer.json", "vocab.json", "merges.txt",
    "added_tokens.json", "special_tokens_map.json", "chat_template.jinja", "tokenizer.model", "mine.vocab",
    "additional_chat_templates/tools.jinja", "model.safetensors",
]  # fmt: skip
OTHER = [
    ".gitattributes", "README.md", "pytorch_model.bin", "pytorch_model.bin.index.json", "model.pt", "modeling_x.py",
    "tokenizer.pkl", "onnx/model.onnx", "onnx/config.json", "x-Q4_0.gguf", "trainer_state.json", "optimizer.pt",
    "checkpoint-5/model.safetensors", "checkpoint-5/config.json", "original/params.json", "adapter.safetensors",
]  # fmt: skip


def contents(*names):
    """Files that differ from each other."""
    return {n: (json.dumps({"name": n}) if n.endswith(".json") else f"<{n}>" * 40).encode() for n in names}


@pytest.fixture
def server(monkeypatch, tmp_path):
    """The Hub, and an empty cache."""
    with serving() as running:
        connect(monkeypatch, running.endpoint)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", "")
        monkeypatch.chdir(tmp_path)
        new_session()
        yield running
    new_session()


def connect(monkeypatch, endpoint):
    """As HF_ENDPOINT, which huggingface_hub reads when it is imported."""
    monkeypatch.setattr("huggingface_hub.HfApi", functools.partial(hf_api.HfApi, endpoint=endpoint))


def new_session():
    """Offline mode and the connections belong to huggingface_hub's session: its 0.x and 1.x name this differently."""
    (getattr(utils, "reset_sessions", None) or utils.close_session)()


@pytest.fixture
def notes():
    return []


# ----------------------------------------------------------------------------- names


@pytest.mark.parametrize("name, expected", [
    ("own-er/na.me", ("own-er/na.me", None, None)),
    ("o/n:q4_0", ("o/n", "q4_0", None)),
    ("o/n:UD-Q4_K_XL", ("o/n", "UD-Q4_K_XL", None)),
    ("o/n:latest", ("o/n", None, None)),
    ("o/n/m.gguf", ("o/n", None, "m.gguf")),
    ("o/n/onnx/model_q4.onnx", ("o/n", None, "onnx/model_q4.onnx")),
    ("hf://o/n:q8_0", ("o/n", "q8_0", None)),
    ("hf://here/n", ("here/n", None, None)),
])  # fmt: skip
def test_parse_hub_id_has_repository_type_and_file(monkeypatch, tmp_path, name, expected):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    assert hub.parse(name) == expected


@pytest.mark.parametrize("name", [
    "gpt2", "./o/n", "../o/n", "/o/n", "~/o/n", "a/b/c", "o/model.gguf", "o/model.onnx", "here/n", "here/n:q4_0",
    "here/n/m.gguf", "o/n:", "o/n:q4_0/m.gguf", "o//m.gguf", "o/n/../m.gguf", "o\\n", "o/n.gguf/m.gguf", "o/n/",
    "https://huggingface.co/o/n", "o/model.safetensors", "o/stories.bin", "o/config.json", "o/english.vocab", 
    "o/m.GGUF", "C:\\o\\n", "C:/o/n", "file:///o/n", "o/..", "~o/n", "o/./n",
    "hf://n", "o n/x", "x" * 5000, "o/" + "x" * 5000 + "/m.onnx/", ".hidden/n",
])  # fmt: skip
def test_resolve_path_is_never_asked_of_the_hub(server, tmp_path, name):
    (tmp_path / "here").mkdir()
    with pytest.raises(CheckpointError, match="does not exist") as caught:
        hub.resolve(name)
    assert server.requests == [] and "\n" not in str(caught.value)


def test_parse_file_with_the_owners_name_is_no_folder(monkeypatch, tmp_path):
    (tmp_path / "owner").write_text("")
    monkeypatch.chdir(tmp_path)
    assert hub.parse("owner/name") == ("owner/name", None, None)


def test_resolve_empty_name_is_refused():
    with pytest.raises(CheckpointError, match="name is empty"):
        hub.resolve("")


def test_resolve_name_in_an_existing_folder_says_how_to_ask_the_hub(server, tmp_path):
    (tmp_path / "here").mkdir()
    with pytest.raises(CheckpointError, match="here is a folder here, so the Hub is not asked: hf://here/n asks it"):
        hub.resolve("here/n")


def test_resolve_existing_path_wins_over_the_hub(server, tmp_path):
    (tmp_path / "o" / "n").mkdir(parents=True)
    assert str(hub.resolve("o/n")) == "o/n" and server.requests == []
    with pytest.raises(UsageError, match="--revision is for a Hub id, and o/n is none"):
        hub.resolve("o/n", revision="main")
    with pytest.raises(UsageError, match="the bundled model is none"):
        hub.resolve(None, revision="main")


# ----------------------------------------------------------------------------- which files


def test_resolve_folder_has_the_tokenizer_and_one_copy_of_the_weights(server, notes):
    commit = server.add("o/n", contents(*FOLDER, *OTHER))
    folder = hub.resolve("o/n", note=notes.append)
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert found == set(FOLDER) == set(server.downloaded())
    assert server.downloaded()[-1] == "model.safetensors", "an interrupted download has no weights"
    assert (folder / "merges.txt").read_bytes() == contents("merges.txt")["merges.txt"]
    assert notes == [f"o/n at {commit}"]
    assert hub_cache.origin(folder) == ("o/n", commit, "") and hub_cache.model_name(folder) == "n"


def test_resolve_sharded_folder_has_the_shards_of_the_index(server):
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    index = json.dumps({"weight_map": {"a": shards[0], "b": shards[1], "c": shards[0], "d": "absent.safetensors"}})
    server.add("o/n", contents(*FOLDER, *shards, "other.safetensors") | {INDEX: index.encode()})
    folder = hub.resolve("o/n")
    assert {path.name for path in folder.glob("*.safetensors*")} == {*shards, INDEX}


GGUFS = ["README.md", "config.json", "mmproj-F16.gguf", "m.imatrix-Q4_0.gguf", "M-BF16.gguf", "M-F16.gguf",
         "M-IQ4_XS.gguf", "M-Q2_K.gguf", "M-Q4_0.gguf", "M-Q4_0_4_4.gguf", "M-Q4_K_M.gguf", "m.q8_0.gguf"]  # fmt: skip


@pytest.mark.parametrize("ask, file", [
    ("o/n", "M-Q4_K_M.gguf"),
    ("o/n:latest", "M-Q4_K_M.gguf"),
    ("o/n:q4_0", "M-Q4_0.gguf"),
    ("o/n:Q4_0", "M-Q4_0.gguf"),
    ("o/n:f16", "M-F16.gguf"),
    ("o/n:Q8_0", "m.q8_0.gguf"),
    ("o/n:iq4_xs", "M-IQ4_XS.gguf"),
    ("o/n/M-Q2_K.gguf", "M-Q2_K.gguf"),
])  # fmt: skip
def test_resolve_gguf_by_type_or_name_is_the_only_download(server, ask, file, notes):
    commit = server.add("o/n", contents(*GGUFS))
    path = hub.resolve(ask, note=notes.append)
    assert path.name == file and path.read_bytes() == contents(file)[file] and server.downloaded() == [file]
    assert notes[-1] == f"o/n at {commit}" and hub_cache.origin(path) == ("o/n", commit, file)
    assert hub_cache.model_name(path) == file, "not the name of the link's target"
    assert (f"taken is {file}" in notes[0]) == (len(notes) == 2) == (ask in ("o/n", "o/n:latest"))


def test_select_gguf_default_follows_llama_cpp():
    assert select("o/n", ["a-Q2_K.gguf", "a-Q8_0.gguf"]).model == "a-Q8_0.gguf"
    assert select("o/n", ["b.gguf", "a.gguf"]).model == "a.gguf"
    assert select("o/n", ["a.gguf"]).note == ""
    two = select("o/n", ["b-q4_0.gguf", "a-q4_0.gguf", "sub/c-q4_0.gguf"], type="q4_0")
    assert two.model == "a-q4_0.gguf" and "3 files of o/n fit" in two.note and "sub/c-q4_0.gguf" in two.note


@pytest.mark.parametrize("files, asked, message", [
    (["a-Q4_0-00001-of-00003.gguf", "a-Q4_0-00002-of-00003.gguf"], {"type": "q4_0"}, "one of 3 parts.*--merge"),
    (["a-Q4_0-00001-of-00003.gguf"], {}, "one of 3 parts"),
    (["a-Q4_0-00001-of-00003.gguf"], {"file": "a-Q4_0-00001-of-00003.gguf"}, "one of 3 parts"),
    (["a-Q8_0.gguf", "b.gguf"], {"type": "q4_0"}, "no GGUF of type q4_0: it has a-Q8_0.gguf, b.gguf"),
    (["model.safetensors", "config.json"], {"type": "q4_0"}, "no GGUF of type q4_0: it has model.safetensors"),
    (["README.md"], {"type": "q4_0"}, "no GGUF of type q4_0: it has no .gguf"),
    (["a-Q8_0.gguf"], {"file": "b.gguf"}, "has no b.gguf: it has a-Q8_0.gguf"),
    (["onnx/model_q4.onnx", "onnx/model_fp16.onnx"], {}, "several .onnx, so name one, as in o/n/onnx/model_fp16"),
    (["README.md", "x.bin"], {}, "no model that edgekit reads"),
])  # fmt: skip
def test_select_nothing_fits_lists_what_is_there(files, asked, message):
    with pytest.raises(CheckpointError, match=message):
        select("o/n", files, **asked)


def test_select_whole_file_is_preferred_to_parts():
    assert select("o/n", ["a-Q4_0-00001-of-00002.gguf", "b-Q4_0.gguf"], type="q4_0").model == "b-Q4_0.gguf"


def test_select_pickles_only_leaves_them_and_says_so():
    selection = select("o/n", ["config.json", "pytorch_model.bin", "tokenizer.json"])
    assert selection.files == ["config.json", "tokenizer.json"] and "only pickles (pytorch_model.bin)" in selection.note


def test_resolve_transformers_js_repository_has_the_graph_its_data_and_the_parent_folder(server):
    side = ["config.json", "tokenizer.json", "generation_config.json"]
    graphs = ["onnx/model.onnx", "onnx/model_q4.onnx", "onnx/model_q4.onnx_data", "onnx/model_q4.onnx_data_1"]
    server.add("o/n", contents(*side, *graphs, "README.md"))
    path = hub.resolve("o/n/onnx/model_q4.onnx")
    assert path.parent.name == "onnx" and sorted(server.downloaded()) == sorted([*side, *graphs[1:]])
    assert server.downloaded()[-1] == graphs[1], "the graph last"
    assert hub.resolve("o/n").name == "model.onnx"
    assert (path.parents[1] / "config.json").is_file()


# ----------------------------------------------------------------------------- revisions and the cache


def test_resolve_revision_takes_a_branch_a_tag_or_a_commit(server, notes):
    old, new = contents("config.json", "m-Q8_0.gguf"), contents("config.json", "m-Q8_0.gguf", "added.json")
    old["m-Q8_0.gguf"] = b"old"
    server.repositories["o/n"] = Repository({"main": new, "v1": old})
    for revision in ("v1", commit_of(old)):
        path = hub.resolve("o/n:q8_0", revision=revision, note=notes.append)
        assert path.read_bytes() == b"old" and hub_cache.origin(path).revision == commit_of(old)
    assert notes == [f"o/n at {commit_of(old)}"], "a commit that was named is not reported"
    assert hub_cache.origin(hub.resolve("o/n:q8_0")).revision == commit_of(new)
    with pytest.raises(FileError, match="o/n has no revision v2$"):
        hub.resolve("o/n", revision="v2")


def test_resolve_second_time_downloads_nothing(server):
    server.add("o/n", contents(*FOLDER))
    first = hub.resolve("o/n")
    server.requests.clear()
    assert hub.resolve("o/n") == first and server.downloaded() == []
    assert len(server.requests) == 2, "what the revision is, and whether the first file has changed"


def test_resolve_new_commit_downloads_only_what_changed(server):
    files = contents(*FOLDER)
    server.add("o/n", files)
    first = hub.resolve("o/n")
    server.requests.clear()
    server.add("o/n", files | {"tokenizer.json": b'{"new": 1}'})
    second = hub.resolve("o/n")
    assert second != first and server.downloaded() == ["tokenizer.json"]


@pytest.mark.parametrize("trouble", ["offline", "unreachable", "broken"])
@pytest.mark.parametrize("ask", ["o/n", "o/g:q4_0"])
def test_resolve_without_the_hub_takes_the_copy_in_the_cache(server, monkeypatch, notes, trouble, ask):
    server.add("o/n", contents(*FOLDER))
    server.add("o/g", contents(*GGUFS))
    first = hub.resolve(ask)
    fail(server, monkeypatch, trouble)
    assert hub.resolve(ask, note=notes.append) == first
    assert "taken is the cache's copy" in notes[-1] and hub_cache.origin(first).revision in notes[-1]


def fail(server, monkeypatch, trouble):
    server.requests.clear()
    if trouble == "offline":
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        new_session()
    elif trouble == "unreachable":
        connect(monkeypatch, "http://127.0.0.1:9")
    else:
        server.status = 503


@pytest.mark.parametrize("trouble, message", [
    ("offline", r"offline mode is on \(HF_HUB_OFFLINE\); the cache does not have it"),
    ("unreachable", "cannot be downloaded from the Hub: Connection refused; the cache does not have it"),
    ("broken", "cannot be downloaded from the Hub: .*503.*; the cache does not have it"),
])  # fmt: skip
def test_resolve_without_the_hub_and_the_cache_is_one_line(server, monkeypatch, trouble, message):
    server.add("o/n", contents(*FOLDER))
    fail(server, monkeypatch, trouble)
    begin = time.perf_counter()
    with pytest.raises(FileError, match=message) as caught:
        hub.resolve("o/n")
    assert "\n" not in str(caught.value) and time.perf_counter() - begin < 5


def test_resolve_incomplete_cache_is_not_taken_for_a_model(server, monkeypatch):
    server.add("o/n", contents(*FOLDER))
    (hub.resolve("o/n") / "model.safetensors").unlink()
    fail(server, monkeypatch, "offline")
    with pytest.raises(FileError, match="the cache has a part of it only"):
        hub.resolve("o/n")


# ----------------------------------------------------------------------------- access


@pytest.mark.parametrize("access, message", [
    ("private", "the Hub has no o/n, or it is private: check the name, or log in"),
    ("gated", "o/n is gated: accept its terms on its page on the Hub, then log in"),
])  # fmt: skip
def test_resolve_refused_repository_is_one_line(server, access, message):
    server.add("o/n", contents(*FOLDER), access=access)
    with pytest.raises(FileError, match=message) as caught:
        hub.resolve("o/n")
    assert "\n" not in str(caught.value)


def test_resolve_unknown_repository_is_one_line(server):
    with pytest.raises(FileError, match="the Hub has no o/absent, or it is private") as caught:
        hub.resolve("o/absent")
    assert "\n" not in str(caught.value)


def test_resolve_forbidden_is_one_line(server):
    server.status = 403
    with pytest.raises(FileError, match=r"the Hub refuses access to o/n \(403\)"):
        hub.resolve("o/n")


def test_resolve_gated_repository_with_a_token_is_downloaded(server, monkeypatch):
    server.add("o/n", contents(*FOLDER), access="gated")
    monkeypatch.setenv("HF_TOKEN", "accepted")
    assert (hub.resolve("o/n") / "model.safetensors").is_file()


# ----------------------------------------------------------------------------- interruption and damage


def test_resolve_interrupted_download_is_continued(server, monkeypatch):
    data = os.urandom(300_000)
    server.add("o/n", {"m-Q8_0.gguf": data})
    server.cut["m-Q8_0.gguf"] = 100_000
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 10_000)
    try:
        hub.resolve("o/n")  # huggingface_hub 1.x continues at once
    except FileError as error:
        assert str(error).startswith("the download of m-Q8_0.gguf from o/n stopped, run the command again")
        assert "\n" not in str(error)
    assert hub.resolve("o/n").read_bytes() == data
    ranges = [asked for method, _, asked in server.requests if method == "GET" and asked]
    assert ranges == ["bytes=100000-"]


def blob(path):
    return path.resolve()


@pytest.mark.parametrize("damage", ["cut", "gone", "folder", "leftover"])
def test_resolve_damaged_cache_is_repaired(server, damage, notes):
    server.add("o/n", contents("m-Q8_0.gguf"))
    path = hub.resolve("o/n")
    if damage == "cut":
        blob(path).write_bytes(b"<m-")
    elif damage == "gone":
        blob(path).unlink()
    elif damage == "folder":
        shutil.rmtree(path.parent)
    else:
        blob(path).rename(f"{blob(path)}.incomplete")
        with open(f"{blob(path)}.incomplete", "ab") as file:
            file.write(b"more than there is")
    assert hub.resolve("o/n", note=notes.append).read_bytes() == contents("m-Q8_0.gguf")["m-Q8_0.gguf"]
    assert any("is damaged, and is downloaded again" in note for note in notes) == (damage == "cut")


# ----------------------------------------------------------------------------- the command line


def edgekit(server, tmp_path, *arguments, **environment):
    """A command with its own cache, as a user runs it."""
    environment = {"HF_ENDPOINT": server.endpoint, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": "", **environment}
    return subprocess.run(
        [sys.executable, "-m", "edgekit", *map(str, arguments)],
        capture_output=True, timeout=120, env=os.environ | environment, cwd=tmp_path, text=True,
    )  # fmt: skip


def test_commands_take_a_hub_id_and_report_its_commit(server, tmp_path):
    files = {path.name: path.read_bytes() for path in hub.BUNDLED.iterdir() if path.is_file()}
    commit = server.add("owner/story", files | {"pytorch_model.bin": b"x"})
    done = edgekit(server, tmp_path, "convert", "-m", "owner/story", "--to", "gguf", "--quant", "q4_0", "--json")
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert record["path"] == "story-q4_0.gguf", "the repository's name, not the commit's"
    assert record["receipt"]["source"]["hub"] == {"repository": "owner/story", "revision": commit}
    assert f"note: owner/story at {commit}" in done.stderr
    server.add("owner/story-GGUF", {"story-Q4_0.gguf": (tmp_path / "story-q4_0.gguf").read_bytes()})
    for command in (["inspect", "--no-tensors"], ["doctor"]):
        done = edgekit(server, tmp_path, *command, "-m", "owner/story-GGUF:q4_0", "--json")
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)["hub"]
        assert found["repository"] == "owner/story-GGUF" and found["file"] == "story-Q4_0.gguf"
    offline = edgekit(
        server, tmp_path, "tokenize", "-m", "owner/story-GGUF:q4_0", "--count", "Once", HF_HUB_OFFLINE="1"
    )
    assert offline.returncode == 0 and "offline mode is on" in offline.stderr
    done = edgekit(server, tmp_path, "inspect", "-m", "story-q4_0.gguf", "--no-tensors")
    assert f"owner/story at {commit}" in done.stdout


@pytest.mark.parametrize("arguments, message", [
    (["-m", "owner/absent"], "Error: the Hub has no owner/absent, or it is private"),
    (["-m", "owner/gguf:q4_0"], "Error: owner/gguf has no GGUF of type q4_0: it has m-Q8_0.gguf"),
    (["-m", "owner/gguf", "--revision", "v9"], "Error: owner/gguf has no revision v9"),
])  # fmt: skip
def test_command_with_a_wrong_hub_id_is_one_line(server, tmp_path, arguments, message):
    server.add("owner/gguf", contents("m-Q8_0.gguf"))
    done = edgekit(server, tmp_path, "inspect", *arguments)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith(message) and done.stderr.count("\n") == 1
