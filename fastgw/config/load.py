"""Configuration text -> Config, or every mistake in it at once."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path as FilePath

from fastgw.config.model import Config, Profile
from fastgw.config.origins import Origins
from fastgw.config.problems import ConfigErrors, Problem, Report, TooManyProblems
from fastgw.secret import HiddenMapping

MAX_BYTES = 1024 * 1024


def load(
    path: str | os.PathLike[str],
    *,
    profile: Profile | None = None,
    env: Mapping[str, str] | None = None,
    credentials_dir: str | None = None,
    allows_exposed: bool = False,
) -> Config:
    """Read and check a configuration file.

    Args:
        profile: the defaults to use; None: what the file says, else llm.
        env: where variables come from; None: this process's environment.
        credentials_dir: where credentials come from; None: what the file says, else what env says.
        allows_exposed: files with keys are taken also if others may read them.

    Raises:
        ConfigErrors: with every mistake found. Nothing else is raised for anything a file can hold.
    """
    file = os.fspath(path)
    try:
        data = _read(file)
    except OSError as error:
        raise _refused(file, f"cannot be read: {error.strerror or 'unknown error'}") from None
    except ValueError:
        raise _refused(file, "not a file name") from None
    base = FilePath(file).parent
    origins = Origins(_hidden(env), base, credentials_dir, allows_exposed)
    return _loads(_decoded(data, file), file, profile, origins)


def loads(
    text: str,
    *,
    file: str = "<string>",
    profile: Profile | None = None,
    env: Mapping[str, str] | None = None,
    base: str | os.PathLike[str] = ".",
) -> Config:
    """The same for a text. ``file`` is its name in messages, ``base`` the directory of relative paths."""
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise _refused(file, "not text in UTF-8") from None
    if size > MAX_BYTES:
        raise _refused(file, f"larger than {MAX_BYTES // 2**20} MiB")
    return _loads(text, file, profile, Origins(_hidden(env), FilePath(base)))


def _hidden(env: Mapping[str, str] | None) -> HiddenMapping:
    return env if isinstance(env, HiddenMapping) else HiddenMapping(os.environ if env is None else env)


def _read(file: str) -> bytes:
    """At most one byte more than is allowed. Refuses what a read could hang on."""
    kind = os.stat(file).st_mode
    if stat.S_ISDIR(kind):
        raise IsADirectoryError(0, "it is a directory")
    if not stat.S_ISREG(kind) and not file.startswith("/dev/"):  # /dev/stdin and the like are meant
        raise OSError(0, "it is not a regular file")
    with open(file, "rb") as stream:
        return stream.read(MAX_BYTES + 1)


def _decoded(data: bytes, file: str) -> str:
    if len(data) > MAX_BYTES:
        raise _refused(file, f"larger than {MAX_BYTES // 2**20} MiB")
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise _refused(file, "the text is in UTF-16", "save it in UTF-8")
    if b"\0" in data:
        raise _refused(file, "a binary file, not text", "expected YAML in UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8-sig", "replace")
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        raise _refused(file, "not text in UTF-8", "save it in UTF-8", line, column) from None


def _refused(file: str, message: str, hint: str = "", line: int = 1, column: int = 1) -> ConfigErrors:
    return ConfigErrors([Problem(file, line, column, "", message, hint)])


def _loads(text: str, file: str, profile: Profile | None, origins: Origins) -> Config:
    report = Report(file)
    try:
        config = _checked(text, report, profile, origins)
    except TooManyProblems:
        config = None
    if config is None or report.problems:
        raise ConfigErrors(report.problems)
    return config


def _checked(text: str, report: Report, profile: Profile | None, origins: Origins) -> Config | None:
    """The steps, in order; each works on all that the one before could make sense of."""
    from fastgw.config import (  # with YAML and jsonschema
        adc,
        apisix_yaml,
        marks,
        pitfalls,
        validate,
        variables,
    )
    from fastgw.config.build import Builder
    from fastgw.config.schema import has_end_mark, is_apisix_form

    document = marks.parse(text, report)
    if document is None:
        return None
    form = "apisix" if is_apisix_form(document.data, text) else "adc"
    if form == "apisix" and not has_end_mark(text):
        last = len(text.rstrip().splitlines())
        report.error(
            (last, 1), (), "an apisix.yaml ends with the line #END", "without it the file may be half written"
        )
    variables.expand(document, report, origins)
    validate.validate(document, report, form)
    data = document.data
    builder = Builder(
        document,
        report,
        profile=profile or Profile(data.get("profile", "llm")),
        form=form,
        base=origins.base,
        allows_exposed=origins.allows_exposed,
    )
    routes = (adc if form == "adc" else apisix_yaml).routes(data, builder)
    consumers = builder.consumers(data.get("consumers"), ("consumers",))
    process = builder.process(data.get("fastgw"))
    if report.problems:
        return None
    pitfalls.warn(routes, consumers, builder)
    return Config(
        routes=routes,
        consumers=consumers,
        process=process,
        profile=builder.profile,
        file=report.file,
        warnings=report.warnings,
    )
