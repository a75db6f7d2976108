"""What the command line and the environment say, laid over a configuration.

The result is a configuration again, in which nothing about the process is left open: what runs, what
`check` judges and what the banner shows are the same value.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from fastgw.cli.options import canonical_address
from fastgw.config import key_file
from fastgw.config.model import Config, Profile
from fastgw.config.problems import ConfigErrors, Problem
from fastgw.secret import Secret

TOKEN_VARIABLE = "FASTGW_ADMIN_TOKEN"
MIN_TOKEN_CHARS, MAX_TOKEN_CHARS = 16, 4096

DEFAULT_LISTEN = ("127.0.0.1:9080",)
DEFAULT_ADMIN = "127.0.0.1:9180"
OFF = "off"
STANDARD_OUTPUT = "-"


@dataclass(frozen=True, slots=True)
class Overrides:
    """Flags that were given, by flag or by environment variable; None or () where one was not."""

    file: str | None = None
    profile: Profile | None = None
    listen: tuple[str, ...] = ()
    admin: str | None = None
    admin_token_file: str | None = None
    workers: int | None = None
    worker_timeout_s: float | None = None  # no setting of the configuration: tests need it shorter
    access_log: str | None = None
    log_level: str | None = None
    log_format: str | None = None
    drain_s: float | None = None
    connect_to: tuple[tuple[str, int, str, int], ...] = ()
    ca_file: str | None = None
    credentials_dir: str | None = None
    insecure_key_file: bool = False  # taken although others may read it
    core_dumps: bool = False  # for debugging: the process may be dumped and traced

    @classmethod
    def from_flags(
        cls,
        *,
        profile: str | None = None,
        drain: float | None = None,
        worker_timeout: float | None = None,
        **flags: Any,
    ) -> Self:
        """From what click hands over: the flags by their names."""
        return cls(
            profile=Profile(profile) if profile else None,
            drain_s=drain,
            worker_timeout_s=worker_timeout,
            **flags,
        )

    def laid_over(self, config: Config, env: Mapping[str, str]) -> Config:
        """The configuration with every setting of the process decided.

        Raises:
            ConfigErrors: the admin token cannot be read, or is none.
        """
        process = config.process
        settled = replace(
            process,
            listen=self.listen or tuple(map(canonical_address, process.listen)) or DEFAULT_LISTEN,
            admin=self.admin or _canonical_admin(process.admin) or DEFAULT_ADMIN,
            admin_token=self.admin_token(env) or process.admin_token,
            workers=self.workers or process.workers,
            access_log=self.access_log or process.access_log or STANDARD_OUTPUT,
            log_level=self.log_level or process.log_level or "info",
            log_format=self.log_format or process.log_format or "text",
            drain_s=process.drain_s if self.drain_s is None else self.drain_s,
            ca_file=os.path.abspath(self.ca_file) if self.ca_file else process.ca_file,
            credentials_dir=(
                os.path.abspath(self.credentials_dir) if self.credentials_dir else process.credentials_dir
            ),
        )
        return replace(config, process=settled)

    def admin_token(self, env: Mapping[str, str]) -> Secret | None:
        """The token of the flag, else of the environment. Raises ConfigErrors: it is none."""
        file = self.admin_token_file
        if file is None:
            token = env.get(TOKEN_VARIABLE)
            return _token(token, TOKEN_VARIABLE) if token else None
        try:
            return _token(key_file.read(file, allows_exposed=self.insecure_key_file).strip(), file)
        except key_file.BadKeyFile as error:
            raise _refused(file, *error.args) from None


def _canonical_admin(text: str | None) -> str | None:
    return text if text is None or text == OFF else canonical_address(text)


def _token(text: str, origin: str) -> Secret:
    if not MIN_TOKEN_CHARS <= len(text) <= MAX_TOKEN_CHARS or not text.isascii() or not text.isprintable():
        raise _refused(
            origin, f"expected a token of {MIN_TOKEN_CHARS} to {MAX_TOKEN_CHARS} printable characters"
        )
    return Secret(text)


def _refused(file: str, message: str, hint: str = "") -> ConfigErrors:
    return ConfigErrors([Problem(file, 1, 1, "", message, hint)])
