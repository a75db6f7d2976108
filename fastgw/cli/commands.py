"""Every command and every flag. What a command does is in a module that is imported when it runs."""

import sys
from typing import Any

import click

from fastgw._version import __version__
from fastgw.cli import held_signals, options
from fastgw.cli.options import Seconds, admin_address, canonical_address, option, parsed


class RunByDefault(click.Group):
    """``fastgw`` alone, or with flags only, is ``fastgw run``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        own = {name for param in self.get_params(ctx) for name in param.opts}
        if not args or (args[0].startswith("-") and args[0].partition("=")[0] not in own):
            args = ["run", *args]
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)  # in the order of this file


@click.group(cls=RunByDefault, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="fastgw", message="%(prog)s %(version)s")
def main() -> None:
    """A failover gateway for LLM traffic: while one provider can answer, the caller gets its answer.

    Without a command: run.
    """


@main.command()
@options.config_file
@option(
    "--listen", callback=parsed(canonical_address), multiple=True, metavar="ADDRESS",
    help="Where clients connect: HOST:PORT, [IPv6]:PORT, unix:PATH or fd:NUMBER. May be repeated. "
    "[default: 127.0.0.1:9080]",
)  # fmt: skip
@option(
    "--admin", callback=parsed(admin_address), metavar="ADDRESS|off",
    help="Where operators connect, or off. [default: 127.0.0.1:9180]",
)  # fmt: skip
@option(
    "--admin-token-file", type=options.FILE, metavar="FILE",
    help="The token that the admin port asks for; or put it into FASTGW_ADMIN_TOKEN.",
)  # fmt: skip
@option(
    "--workers", type=click.IntRange(1, 64), metavar="N",
    help="Worker processes, 1 to 64, that share one view of the nodes' health. [default: 1]",
)  # fmt: skip
@option(
    "--worker-timeout", type=Seconds(min=0.5), metavar="SECONDS", hidden=True,
    help="A worker that stands still for so long is replaced. [default: 10]",
)  # fmt: skip
@options.profile
@options.log_level
@options.log_format
@option("--access-log", metavar="-|FILE|off", help="One line per request. [default: -, standard output]")
@option(
    "--drain", type=Seconds(min=0, max=86400), metavar="SECONDS",
    help="How long requests may take to finish when the gateway is told to end. [default: 30]",
)  # fmt: skip
@options.connect_to
@options.ca_file
@options.credentials_dir
@options.insecure_key_file
@option(
    "--core-dumps", is_flag=True,
    help="Let the process be dumped and traced by its user. For debugging: its memory holds the keys.",
)  # fmt: skip
def run(**flags: Any) -> None:
    """Run the gateway.

    Without a configuration and without keys it runs against built-in, simulated providers.
    """
    held_signals.hold()  # before the imports, which take longest
    from fastgw.cli import process
    from fastgw.cli.overrides import Overrides

    sys.exit(process.run(Overrides.from_flags(**flags)))


@main.command()
@options.config_file
@option("--format", "form", type=click.Choice(["text", "json", "github"]), default="text",
        help="text for people, json for programs, github for annotations in a workflow.")  # fmt: skip
@options.profile
@option("--listen", callback=parsed(canonical_address), multiple=True, metavar="ADDRESS",
        help="Check as if run with this --listen.")  # fmt: skip
@options.credentials_dir
@options.insecure_key_file
def check(form: str, **flags: Any) -> None:
    """Check a configuration and start nothing: every mistake at once, with its file:line:column.

    Ends with 1 if there is a mistake.
    """
    from fastgw.cli import check as checking
    from fastgw.cli.overrides import Overrides

    sys.exit(checking.run(Overrides.from_flags(**flags), form))


@main.command()
@click.argument("method", required=False)
@click.argument("path", required=False)
@options.config_file
@options.profile
@option("--body", metavar="FILE", help="The request's body, for its model; - is standard input.")
@option("--host", metavar="NAME", help="The request's Host, where routes have hosts.")
@option("--url", metavar="URL", help="The admin port of a running gateway that is asked: http://HOST:PORT.")
@option("--admin-token-file", type=options.FILE, metavar="FILE", help="The token that it asks for.")
@options.credentials_dir
@options.insecure_key_file
@option("--format", "form", type=click.Choice(["text", "json"]), default="text",
        help="text for people, json for programs.")  # fmt: skip
@option("--outcomes", is_flag=True, help="Print instead what each answer of a provider means.")
def explain(
    method: str | None,
    path: str | None,
    body: str | None,
    host: str | None,
    url: str | None,
    form: str,
    outcomes: bool,
    **flags: Any,
) -> None:
    """Say what would become of a request: its route, and which nodes would be tried, in which order.

    \b
      fastgw explain POST /v1/chat/completions --body request.json

    With --url, or without -c while a gateway runs here, that gateway is asked, and the plan is the
    one for the nodes' present health. With -c FILE it is the one that the file amounts to.

    Ends with 1 if no node would be tried.
    """
    from fastgw.cli import explain as explaining
    from fastgw.cli.overrides import Overrides

    if outcomes:
        sys.exit(explaining.outcomes())
    if method is None or path is None:
        raise click.UsageError("METHOD and PATH are needed, as in: fastgw explain POST /v1/chat/completions")
    if url is not None and (flags["file"] is not None or flags["profile"] is not None):
        raise click.UsageError("--url asks a running gateway, which has a configuration of its own: no -c")
    overrides = Overrides.from_flags(**flags)
    code = explaining.run(overrides, method=method, target=path, host=host, body=body, url=url, form=form)
    sys.exit(code)


@main.command()
def schema() -> None:
    """Print the JSON Schema of the configuration, for editors."""
    import json

    from fastgw.config import json_schema

    click.echo(json.dumps(json_schema(), indent=2))


@main.command()
@option("--host", default="127.0.0.1", show_default=True, help="The address the providers listen on.")
@option("--port-openai", type=click.IntRange(0, 65535), default=9443, show_default=True,
        help="Of the simulated api.openai.com; 0: any free one.")  # fmt: skip
@option("--port-deepseek", type=click.IntRange(0, 65535), default=9444, show_default=True,
        help="Of the simulated api.deepseek.com; 0: any free one.")  # fmt: skip
@option("--control", type=click.IntRange(0, 65535), default=9990, show_default=True,
        help="The port on 127.0.0.1 where faults are switched; 0: any free one.")  # fmt: skip
@option("--article", is_flag=True, help="Also accept LLM-API-KEY, the key in examples/article.yaml.")
@option("--ca-dir", type=click.Path(file_okay=False), metavar="DIR",
        help="Where the certificates are kept. [default: the user's cache directory]")  # fmt: skip
@options.log_level
@options.log_format
def simulate(**flags: Any) -> None:
    """Run only the simulated providers, to be broken at will."""
    from fastgw.cli import simulate as simulating

    sys.exit(simulating.run(**flags))


@main.command()
@option("--plain", is_flag=True, help="Lines instead of a live picture, as when output is no terminal.")
@option("--scale", type=click.FloatRange(min=0.01, max=10), default=1.0, hidden=True,
        envvar="FASTGW_DEMO_SCALE", help="Of the time each scene takes.")  # fmt: skip
def demo(plain: bool, scale: float) -> None:
    """Show the failover in about a minute: a provider breaks in many ways, the callers do not notice.

    Ends with 0 only if no caller saw an error.
    """
    from fastgw.cli import demo as demonstration

    sys.exit(demonstration.run(is_plain=plain, scale=scale))


@main.command(context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def bench(arguments: tuple[str, ...]) -> None:
    """Measure fastgw beside its peers; in a checkout. `fastgw bench --help` shows what it takes."""
    from fastgw.cli import bench as benching

    sys.exit(benching.run(arguments))


@main.command()
def version() -> None:
    """Print the version."""
    click.echo(f"fastgw {__version__}")
