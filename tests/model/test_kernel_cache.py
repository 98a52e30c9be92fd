"""The cache of compiled libraries: damage, foreign hands, many builders, and no compiler at all."""

import logging
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cnnbp.model import fused, kernel_cache

FLAGS = ["-shared", "-fPIC"]
has_compiler = shutil.which("cc") is not None
needs_compiler = pytest.mark.skipif(not has_compiler, reason="no C compiler here")
posix = pytest.mark.skipif(not hasattr(os, "getuid"), reason="access rights of POSIX")


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "answer.c"
    path.write_text("int answer(void) { return 42; }\n")
    return path


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The cache's directory, which does not exist yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "cnnbp"


@pytest.fixture
def builds(monkeypatch):
    """Count the compiler's runs."""
    commands = []
    compile = kernel_cache._compile

    def counted(command):
        commands.append(command)
        compile(command)

    monkeypatch.setattr(kernel_cache, "_compile", counted)
    return commands


def stub(directory: Path, words: str) -> str:
    """A compiler that prints `words` and fails."""
    path = directory / "stub"
    path.write_text(f"#!/bin/sh\necho {words!r} >&2\necho more >&2\nexit 1\n")
    path.chmod(0o755)
    return str(path)


@needs_compiler
def test_the_second_load_takes_it_from_the_cache(source, cache, builds):
    assert kernel_cache.load(source, FLAGS).answer() == 42
    assert kernel_cache.load(source, FLAGS).answer() == 42
    assert len(builds) == 1
    assert [path.suffix for path in cache.iterdir()] == [".so"]


@needs_compiler
def test_other_sources_flags_and_compilers_have_other_libraries(source, cache, builds, monkeypatch):
    kernel_cache.load(source, FLAGS)
    kernel_cache.load(source, [*FLAGS, "-O1"])
    source.write_text("int answer(void) { return 43; }\n")
    assert kernel_cache.load(source, FLAGS).answer() == 43
    monkeypatch.setenv("CC", "cc -O1")
    assert kernel_cache.load(source, FLAGS).answer() == 43
    assert len(builds) == len(list(cache.iterdir())) == 4


DAMAGES = {
    "cut": lambda content: content[:3000],
    "empty": lambda content: b"",
    "other bytes": lambda content: bytes(len(content)),
    "one bit": lambda content: content[:-1] + bytes([content[-1] ^ 1]),
    "text": lambda content: b"not a library",
}


@needs_compiler
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_library_is_built_anew(source, cache, builds, damage):
    kernel_cache.load(source, FLAGS)
    (library,) = cache.iterdir()
    intact = library.read_bytes()
    library.unlink()  # this process has the old file mapped: cut in place, it would end by SIGBUS
    library.write_bytes(damage(intact))
    library.chmod(0o700)
    for _ in range(2):
        assert kernel_cache.load(source, FLAGS).answer() == 42
    assert len(builds) == 2
    assert any(kernel_cache._is_intact(path) for path in cache.iterdir())


@needs_compiler
def test_a_library_that_cannot_be_loaded_here_is_built_anew(source, cache, builds):
    """As one that another system with the same home directory has built."""
    kernel_cache.load(source, FLAGS)
    (library,) = cache.iterdir()
    foreign = b"a library of another system"
    stem = library.stem.rpartition("-")[0]
    other = cache / f"{stem}-{kernel_cache._checksum(foreign)}.so"
    other.write_bytes(foreign)
    other.chmod(0o700)
    library.unlink()
    assert kernel_cache.load(source, FLAGS).answer() == 42
    assert kernel_cache.load(source, FLAGS).answer() == 42
    assert len(builds) == 2
    assert other.read_bytes() == foreign


@posix
@needs_compiler
@pytest.mark.parametrize("mode", [0o777, 0o775, 0o1777])
def test_a_directory_that_others_may_write_to_is_not_used(source, cache, builds, caplog, mode):
    cache.mkdir(parents=True)
    cache.chmod(mode)
    caplog.set_level(logging.INFO)
    for _ in range(2):
        assert kernel_cache.load(source, FLAGS).answer() == 42
    assert len(builds) == 2
    assert list(cache.iterdir()) == []
    assert caplog.messages[0].startswith(f"{cache}: not used")


@posix
@needs_compiler
def test_a_directory_in_one_that_others_may_write_to_is_not_used(source, cache, builds):
    cache.mkdir(parents=True)
    cache.parent.chmod(0o777)
    kernel_cache.load(source, FLAGS)
    assert list(cache.iterdir()) == []
    cache.parent.chmod(0o1777)  # as /tmp: only the owner renames
    kernel_cache.load(source, FLAGS)
    assert len(list(cache.iterdir())) == 1


@posix
@needs_compiler
def test_a_link_to_a_directory_that_others_may_write_to_is_not_used(source, cache, tmp_path):
    (tmp_path / "open").mkdir(mode=0o777)
    (tmp_path / "open").chmod(0o777)
    cache.parent.mkdir()
    cache.symlink_to(tmp_path / "open")
    assert kernel_cache.load(source, FLAGS).answer() == 42
    assert list(cache.iterdir()) == []


@posix
@needs_compiler
def test_a_file_that_others_may_write_to_is_not_loaded(source, cache, builds):
    kernel_cache.load(source, FLAGS)
    (library,) = cache.iterdir()
    library.chmod(0o770)
    kernel_cache.load(source, FLAGS)
    assert len(builds) == 2
    assert library.stat().st_mode & 0o777 == 0o700


@posix
@needs_compiler
def test_a_directory_of_another_user_is_not_used(source, cache, builds, monkeypatch):
    kernel_cache.load(source, FLAGS)
    owner = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: owner + 1)
    if owner != 0:  # root's directories are trusted
        kernel_cache.load(source, FLAGS)
        assert len(builds) == 2
    monkeypatch.setattr(os, "getuid", lambda: owner)
    if owner == 0:
        os.chown(cache, 12345, -1)
        kernel_cache.load(source, FLAGS)
        assert len(builds) == 2


@posix
@needs_compiler
def test_new_directories_and_files_are_the_users_alone(source, cache):
    before = os.umask(0o002)  # as systems with a group for each user set it
    try:
        kernel_cache.load(source, FLAGS)
    finally:
        os.umask(before)
    for path in (cache.parent, cache, *cache.iterdir()):
        assert path.stat().st_mode & 0o077 == 0


@needs_compiler
@pytest.mark.parametrize("place", ["file", "missing home"])
def test_without_a_place_to_keep_it_the_library_still_loads(
    source, tmp_path, monkeypatch, builds, place
):
    if place == "file":
        (tmp_path / "file").touch()
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    else:
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    for _ in range(2):
        assert kernel_cache.load(source, FLAGS).answer() == 42
    assert len(builds) == 2


@needs_compiler
def test_a_full_disk_costs_the_cache_alone(source, cache, builds, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert kernel_cache.load(source, FLAGS).answer() == 42
    assert list(cache.iterdir()) == []


@needs_compiler
def test_eight_threads_build_once(source, cache, builds):
    with ThreadPoolExecutor(8) as pool:
        libraries = list(pool.map(lambda _: kernel_cache.load(source, FLAGS), range(8)))
    assert [library.answer() for library in libraries] == [42] * 8
    assert len(builds) == 1


@pytest.mark.slow
@needs_compiler
def test_eight_processes_at_once(source, cache, builds):
    program = (
        "import sys; from pathlib import Path; from cnnbp.model import kernel_cache;"
        f"print(kernel_cache.load(Path(sys.argv[1]), {FLAGS}).answer())"
    )
    command = [sys.executable, "-c", program, str(source)]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(8)]
    assert [process.communicate()[0] for process in started] == ["42\n"] * 8
    assert all(map(kernel_cache._is_intact, cache.iterdir()))
    kernel_cache.load(source, FLAGS)
    assert builds == []


@pytest.mark.parametrize("reason", ["clang: error: unsupported option '-fopenmp'", "no -lgomp"])
def test_a_compiler_that_fails_gives_one_line_with_its_words(
    cache, tmp_path, monkeypatch, caplog, reason
):
    """Apple's compiler knows neither -fopenmp nor, in older versions, -march=native."""
    monkeypatch.setenv("CC", stub(tmp_path, reason))
    caplog.set_level(logging.INFO)
    fused.kernel.cache_clear()
    try:
        assert fused.kernel() is None
        assert fused.kernel() is None
    finally:
        fused.kernel.cache_clear()
    (line,) = caplog.messages
    assert line.startswith("C kernel not available, using PyTorch's layers (slower): ")
    assert line.endswith(reason)


@pytest.mark.parametrize("compiler", ["missing-compiler", "'unclosed", "false"])
def test_no_compiler_gives_one_line(cache, monkeypatch, caplog, compiler):
    monkeypatch.setenv("CC", compiler)
    caplog.set_level(logging.INFO)
    fused.kernel.cache_clear()
    try:
        assert fused.kernel() is None
    finally:
        fused.kernel.cache_clear()
    assert len(caplog.messages) == 1


def test_a_compiler_that_hangs_is_given_up(source, cache, tmp_path, monkeypatch):
    path = tmp_path / "hangs"
    path.write_text("#!/bin/sh\nexec sleep 60\n")
    path.chmod(0o755)
    monkeypatch.setenv("CC", str(path))
    monkeypatch.setattr(kernel_cache, "COMPILE_SECONDS", 0.1)
    with pytest.raises(subprocess.TimeoutExpired):
        kernel_cache.load(source, FLAGS)


def test_an_empty_cc_is_none(source, cache, builds, monkeypatch):
    monkeypatch.setenv("CC", "")
    monkeypatch.setattr(kernel_cache, "_compile", lambda command: builds.append(command))
    with pytest.raises(OSError, match=r"\.so"):
        kernel_cache.load(source, FLAGS)
    assert builds[0][0] == "cc"


@needs_compiler
def test_where_there_are_no_owners_the_cache_is_used(source, cache, builds, monkeypatch):
    """As on Windows, whose access lists these bits do not show."""
    monkeypatch.delattr(os, "getuid", raising=False)
    kernel_cache.load(source, FLAGS)
    kernel_cache.load(source, FLAGS)
    assert len(builds) == 1
