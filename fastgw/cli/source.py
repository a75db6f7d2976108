"""Where the configuration comes from."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from fastgw import config as reader
from fastgw.cli.exposure import refuse_exposure
from fastgw.cli.overrides import Overrides
from fastgw.config.model import Config
from fastgw.secret import HiddenMapping

FOUND_FILE = "gateway.yaml"
EMBEDDED_NAME = "<embedded>"
PROVIDER_KEYS = ("OPENAI_API_KEY", "DEEPSEEK_API_KEY")


@dataclass(frozen=True, slots=True)
class Source:
    """Where the configuration comes from, so that it can be loaded again in the same way.

    ``env`` is a snapshot: what a reload expands is what the start expanded.
    """

    overrides: Overrides
    env: HiddenMapping
    file: str | None  # None: the embedded default
    missing_keys: tuple[str, ...] = ()  # of the embedded default

    @classmethod
    def choose(cls, overrides: Overrides, env: Mapping[str, str], directory: Path | None = None) -> Self:
        """A file that was named, else ``gateway.yaml`` here, else the embedded default."""
        if overrides.file is not None:
            return cls(overrides, HiddenMapping(env), overrides.file)
        found = FOUND_FILE if directory is None else str(directory / FOUND_FILE)
        if os.path.lexists(found):
            return cls(overrides, HiddenMapping(env), found)
        return cls(
            overrides, HiddenMapping(env), None, tuple(name for name in PROVIDER_KEYS if not env.get(name))
        )

    @property
    def is_simulated(self) -> bool:
        """Neither a file nor a key: only simulated providers are left."""
        return self.file is None and len(self.missing_keys) == len(PROVIDER_KEYS)

    def load(self) -> Config:
        """Load, lay the flags over it, and refuse what would be open to everybody.

        Raises:
            ConfigErrors: with every mistake.
        """
        profile = self.overrides.profile
        if self.file is not None:
            config = reader.load(
                self.file,
                profile=profile,
                env=self.env,
                credentials_dir=self.overrides.credentials_dir,
                allows_exposed=self.overrides.insecure_key_file,
            )
        else:
            env = self.env
            if self.is_simulated:
                from fastgw.simulator import DEFAULT_KEYS

                keys = {f"{name.upper()}_API_KEY": key for name, key in DEFAULT_KEYS.items()}
                env = HiddenMapping({**env, **keys})
            config = reader.loads(reader.embedded(env), file=EMBEDDED_NAME, profile=profile, env=env)
        config = self.overrides.laid_over(config, self.env)
        refuse_exposure(config)
        return config
