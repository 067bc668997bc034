"""An authority and certificates for tests, made by openssl."""

from __future__ import annotations

import subprocess
from pathlib import Path


def make_authority(folder: Path) -> Path:
    """Make ca.pem and ca.key."""
    command = ["openssl", "req", "-x509", *_NEW, "-subj", "/CN=test-ca", "-keyout", "ca.key", "-out", "ca.pem"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=60)
    return folder / "ca.pem"


def issue(folder: Path, name: str, common_name: str, *extra: str) -> tuple[Path, Path]:
    """Make {name}.pem and {name}.key, signed by the authority; `extra` goes to `openssl x509`."""
    (folder / "san").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    request = ["openssl", "req", *_NEW, "-subj", f"/CN={common_name}", "-keyout", f"{name}.key", "-out", "csr"]
    sign = ["openssl", "x509", "-req", "-in", "csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"]
    sign += ["-extfile", "san", "-out", f"{name}.pem", *(extra or ("-days", "2"))]
    for command in (request, sign):
        subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=60)
    return folder / f"{name}.pem", folder / f"{name}.key"


def issue_later(folder: Path, name: str, common_name: str) -> tuple[Path, Path]:
    """Make {name}.pem and {name}.key, valid from 2090 on: what every certificate is to a clock at 1970."""
    (folder / "index.txt").touch()
    (folder / "later.cnf").write_text(
        "[ca]\ndefault_ca=x\n[x]\ndatabase=index.txt\nnew_certs_dir=.\nrand_serial=yes\ndefault_md=sha256\n"
        "policy=p\ncertificate=ca.pem\nprivate_key=ca.key\n[p]\ncommonName=supplied\n"
    )
    (folder / "san").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    request = ["openssl", "req", *_NEW, "-subj", f"/CN={common_name}", "-keyout", f"{name}.key", "-out", "csr"]
    sign = ["openssl", "ca", "-batch", "-config", "later.cnf", "-in", "csr", "-extfile", "san", "-notext"]
    sign += ["-startdate", "20900101000000Z", "-enddate", "20910101000000Z", "-out", f"{name}.pem"]
    for command in (request, sign):
        subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=60)
    return folder / f"{name}.pem", folder / f"{name}.key"


_NEW = ["-nodes", "-newkey", "rsa:2048", "-days", "2"]
