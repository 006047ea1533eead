"""Fetch parts of LibriSpeech from OpenSLR: `python3 download_data.py dev-clean test-clean`.

An interrupted download continues where it stopped, the checksum is compared with the published one, and nothing is
unpacked outside the folder. A part that exists is not fetched again. Nothing else in this project uses the network.
"""

import argparse
import hashlib
import http.client
import re
import shutil
import tarfile
import time
import urllib.error
import urllib.request
import zlib
from pathlib import Path
from typing import Any

from tqdm import tqdm

from foundation import safe_files, script
from foundation.paths import expand_home

# MD5 of <part>.tar.gz, from md5sum.txt in OpenSLR's folder of LibriSpeech (Panayotov et al. 2015, CC BY 4.0).
PARTS = {
    "dev-clean": "42e2234ba48799c1f50f24a7926300a1",
    "dev-other": "c8d0bcc9cca99d4f8b62fcc847357931",
    "test-clean": "32fa31d27d2e1cad72775fee3f4849a9",
    "test-other": "fb5a50374b501bb3bac4815ee91d3135",
    "train-clean-100": "2a93770f6d5c6c964bc36631d331a522",
    "train-clean-360": "c0e676e450a7ff2f54aeade5171606fa",
    "train-other-500": "d1a0fd59409feb2c614ce4d30c387708",
}
MIRRORS = {
    "main": "https://www.openslr.org/resources/12",
    "us": "https://us.openslr.org/resources/12",
    "eu": "https://openslr.elda.org/resources/12",
    "cn": "https://openslr.magicdatatech.com/resources/12",
}
BLOCK_BYTES = 2**20
TIMEOUT_SECONDS = 60
ATTEMPTS = 5
PAUSE_SECONDS = 2


def fetch_part(part: str, folder: Path, mirror: str) -> Path:
    """Fetch and unpack a part, unless it is there; returns its folder. Raises ValueError or OSError."""
    part_folder = folder / "LibriSpeech" / part
    if part_folder.is_dir():
        print(f"{part} is there already.")
        return part_folder
    archive = folder / f"{part}.tar.gz"
    with safe_files.only_one_process(archive):
        fetch_archive(f"{mirror}/{part}.tar.gz", archive)
        print(f"Comparing the checksum of {archive}.", flush=True)
        if md5_of(archive) != PARTS[part]:
            archive.unlink()
            raise ValueError(f"{archive} was damaged on its way, and is deleted: try again, or another --mirror.")
        unpack(archive, part, folder)
        archive.unlink()
    return part_folder


def fetch_archive(url: str, archive: Path) -> None:
    """Download to `archive`, from where `<archive>.part` stopped. Raises ValueError if it fails ATTEMPTS times."""
    if archive.exists():
        return
    partial = archive.with_name(archive.name + ".part")
    reason: Exception | None = None
    for attempt in range(1, ATTEMPTS + 1):
        try:
            fetch_rest(url, partial)
            partial.replace(archive)
            return
        except urllib.error.HTTPError as error:
            if error.code == 416:  # Nothing left to send: the file is complete, or of another archive.
                if error.headers.get("Content-Range") == f"bytes */{partial.stat().st_size}":
                    partial.replace(archive)
                    return
                partial.unlink()
            elif error.code < 500:
                raise ValueError(f"{url}: {error}. Try another --mirror.") from None
            reason = error
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
            reason = error
        print(f"Attempt {attempt} of {ATTEMPTS} failed: {reason}.", flush=True)
        if attempt < ATTEMPTS:
            time.sleep(PAUSE_SECONDS * attempt)
    raise ValueError(f"{url} cannot be fetched: {reason}. Run the same command to continue, or try another --mirror.")


def fetch_rest(url: str, partial: Path) -> None:
    """Download the missing rest of a file and append it to `partial`. Raises the errors of urllib, or OSError."""
    have = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})  # noqa: S310
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:  # noqa: S310 - the user's own mirror.
        if have and response.status != 206:  # The server sends all of it again.
            have = 0
        rest = int(response.headers.get("Content-Length", 0))
        if not rest:
            raise ValueError(f"{url} does not say how large it is: try another --mirror.")
        size = f"{rest / 1e9:.2f} GB" if rest >= 1e8 else f"{rest / 1e6:.1f} MB"
        print(f"{url}: {size}{' more' if have else ''}.", flush=True)
        check_space(partial.parent, rest + (have + rest))
        progress = tqdm(total=have + rest, initial=have, unit="B", unit_scale=True, disable=None)
        with progress, partial.open("ab" if have else "wb") as file:
            while block := response.read(BLOCK_BYTES):
                file.write(block)
                progress.update(len(block))
                rest -= len(block)
    if rest > 0:
        raise ConnectionError(f"{rest:,} bytes are missing")


def check_space(folder: Path, needed: int) -> None:
    """Raise ValueError unless the disk has room for `needed` bytes: the rest of the archive and the unpacked files."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ValueError(f"{folder} has {free / 1e9:.2f} GB free, and {needed / 1e9:.2f} GB are needed.")


def md5_of(path: Path) -> str:
    """The MD5 checksum of a file, in hexadecimal digits."""
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file, tqdm(total=path.stat().st_size, unit="B", unit_scale=True, disable=None) as progress:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
            progress.update(len(block))
    return digest.hexdigest()


def unpack(archive: Path, part: str, folder: Path) -> None:
    """Unpack LibriSpeech/<part>, and the lists beside it; the part's folder appears only when it is complete.

    Raises ValueError if the archive has links or paths that lead out of the folder, devices, or no such part.
    """
    temporary = folder / f"{part}.unpacking"
    shutil.rmtree(temporary, ignore_errors=True)
    # The first versions of Python 3.10 and 3.11 lack the filter; what has the published checksum needs none.
    safely: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tqdm(tar, desc="Unpacking", unit=" files", disable=None):
                tar.extract(member, temporary, **safely)
        if not (temporary / "LibriSpeech" / part).is_dir():
            raise ValueError(f"it does not hold LibriSpeech/{part}.")
        (folder / "LibriSpeech").mkdir(exist_ok=True)
        for path in sorted((temporary / "LibriSpeech").glob("*.TXT")):
            path.replace(folder / "LibriSpeech" / path.name)
        (temporary / "LibriSpeech" / part).replace(folder / "LibriSpeech" / part)
    except (tarfile.TarError, EOFError, zlib.error, ValueError) as error:
        raise ValueError(f"{archive} is not unpacked: {error}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def build_parser() -> script.OptionParser:
    """The command line."""
    parser = script.OptionParser(description=__doc__)
    parser.add_argument("parts", nargs="+", choices=PARTS, metavar="part", help=", ".join(PARTS))
    parser.add_argument("--folder", type=expand_home, default="data", help="where LibriSpeech/ is put (default: data)")
    parser.add_argument("--mirror", default="main", help=f"{', '.join(MIRRORS)}, or an address (default: main)")
    return parser


def main(options: argparse.Namespace) -> None:
    """Fetch the parts that the options name, and print the settings to use them."""
    mirror = MIRRORS.get(options.mirror, options.mirror).rstrip("/")
    if not re.fullmatch(r"https?://[A-Za-z0-9.:/_~%-]+", mirror):
        raise ValueError(f"--mirror {options.mirror} is neither an address nor one of {', '.join(MIRRORS)}.")
    for part in dict.fromkeys(options.parts):
        part_folder = fetch_part(part, Path(options.folder), mirror)
        setting = "TRAIN_DATA_DIR" if part.startswith("train") else "TEST_DATA_DIR"
        print(f'For myconfig.py: {setting} = "{part_folder.as_posix()}"', flush=True)


if __name__ == "__main__":
    script.run(lambda: main(build_parser().parse_args()))
