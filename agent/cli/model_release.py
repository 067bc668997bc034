"""`edgebeat model keygen|sign|serve`: what an operator needs to send a model to devices."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from agent.cli import exit_codes
from agent.cli.arguments import count
from agent.core.release import SCHEMA, Release, ReleaseRefusedError, parse_release
from agent.errors import ConfigError
from agent.models.manifest import load_manifest

SECRET_MODE = 0o600


def add_arguments(commands: Any) -> None:
    """Add the commands' arguments."""
    keygen = commands.add_parser("keygen", help="a key to sign releases with, and the line that devices trust")
    keygen.add_argument("name", metavar="NAME", help="of the key, such as fleet-2026")
    keygen.add_argument("--folder", type=Path, default=Path(), help="for NAME.secret and NAME.public (default: here)")
    sign = commands.add_parser("sign", help="the signed manifest of a model folder")
    sign.add_argument("model", type=Path, metavar="FOLDER", help="a model folder that `verify` passes")
    sign.add_argument("--key", type=Path, required=True, metavar="FILE", help="NAME.secret of keygen")
    sign.add_argument("--seq", type=count, required=True, metavar="N", help="above that of every release before")
    sign.add_argument("--url", required=True, metavar="URL", help="folder at the server that has the same files")
    sign.add_argument("--name", metavar="NAME", help="of the model on the devices (default: the folder's name)")
    sign.add_argument("--arch", action="append", default=[], metavar="MACHINE", help="only for it (`uname -m`)")
    sign.add_argument("--onnxruntime-min", default="", metavar="VERSION", help="oldest version that runs it")
    sign.add_argument("--allow-downgrade", action="store_true", help="may follow a release with a higher --seq")
    sign.add_argument("--output", type=Path, metavar="FILE", help="default: FOLDER-SEQ.release.json")
    serve = commands.add_parser("serve", help="a file server for trials and small sites")
    serve.add_argument("folder", type=Path, metavar="FOLDER", help="its files can be read by everybody who connects")
    serve.add_argument("--host", default="127.0.0.1", help="address to listen at (default: %(default)s)")
    serve.add_argument("--port", type=int, default=8480, help="default: %(default)s; 0 for any that is free")
    serve.add_argument("--cert", type=Path, metavar="FILE", help="PEM certificate; devices need https elsewhere")
    serve.add_argument("--key", type=Path, metavar="FILE", help="PEM key of --cert")


def keygen(args: argparse.Namespace) -> int:
    """Write both files of a new key; none is ever overwritten."""
    from agent.updates.signature import generate_key

    secret, public = generate_key(args.name)
    for suffix, text, mode in (("secret", secret, SECRET_MODE), ("public", public, 0o644)):
        file = args.folder / f"{args.name}.{suffix}"
        try:
            with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as stream:
                stream.write(text)
        except OSError as error:
            raise ConfigError(f"{file}: cannot be written: {error.strerror}: nothing is overwritten") from error
        print(f"wrote {file}")
    print("keep the secret one off every device; add the public line to the devices' updates.keys_file:")
    print(public, end="")
    return exit_codes.DONE


def sign(args: argparse.Namespace) -> int:
    """Write a manifest that a device would take."""
    folder, _ = load_manifest(args.model)
    name = args.name or folder.resolve().name
    try:
        secret = args.key.read_text(encoding="utf-8")
        manifest, release = signed_release(
            folder,
            name,
            args.seq,
            args.url,
            secret,
            architectures=args.arch,
            onnxruntime_min=args.onnxruntime_min,
            allow_downgrade=args.allow_downgrade,
        )
        output = args.output or Path(f"{name}-{args.seq}.release.json")
        output.write_text(json.dumps(manifest) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{error.filename}: {error.strerror}") from error
    figures = f"{len(release.files)} files, {release.size_bytes} bytes"
    print(f"wrote {output}: {name} {release.version}, seq {release.seq}, {figures}")
    print(f"next: put the files of {folder} below {args.url}, then edgebeat model push {output} --device ID")
    return exit_codes.DONE


def signed_release(
    folder: Path, name: str, seq: int, url: str, secret: str, **more: Any
) -> tuple[dict[str, str], Release]:
    """Return the signed manifest of a model folder, and what a device reads in it.

    Args:
        folder: of the model; its plain files make the release.
        name: of the model on the devices.
        seq: of the release.
        url: folder at the server with the same files.
        secret: text of the key's secret file.
        more: `architectures`, `onnxruntime_min`, `allow_downgrade`; what is empty or false is left out.

    Raises:
        ConfigError: no device would take it, or the key is none.
    """
    from agent.updates.signature import sign as sign_payload

    _, manifest = load_manifest(folder)
    files = [
        {
            "path": file.name,
            "url": f"{url.rstrip('/')}/{file.name}",
            "size": file.stat().st_size,
            "sha256": _sha256(file),
        }
        for file in sorted(folder.iterdir())
        if file.is_file() and not file.name.startswith(".")
    ]
    body = {"schema": SCHEMA, "name": name, "seq": seq, "version": manifest.version, "files": files}
    payload = json.dumps({**body, **{key: value for key, value in more.items() if value}}).encode()
    try:
        release = parse_release(payload)
    except ReleaseRefusedError as error:
        raise ConfigError(f"{folder}: no device would take this: {error}") from error
    return sign_payload(payload, secret), release


def serve(args: argparse.Namespace) -> int:
    """Serve files until Ctrl-C."""
    from agent.updates.file_server import file_server

    with file_server(args.folder, args.host, args.port, args.cert, args.key) as server:
        scheme = "http" if args.cert is None else "https"
        host, port = server.server_address[:2]
        print(f"serving {args.folder} at {scheme}://{host!s}:{port}/", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()
    return exit_codes.DONE


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
