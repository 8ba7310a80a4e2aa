"""Checks signed files with LIEF and signify: oracles.py ROOTS FILE... (ROOTS: a PEM file)

Prints one line per file: name, what LIEF says, what signify says. Exit status 1 if any of them refuses.
"""
import pathlib
import re
import sys

import lief

# oscrypto, which signify uses, does not understand OpenSSL versions with two digits at the end (3.0.17).
search = re.search
re.search = lambda pattern, text, *rest: search(
    pattern.replace(r"\d\.\d\.\d[", r"\d\.\d\.\d+[") if isinstance(pattern, str) else pattern, text, *rest
)

from signify.authenticode import AuthenticodeFile
from signify.x509 import FileSystemCertificateStore


def by_lief(path):
    pe = lief.PE.parse(str(path))
    flags = pe.verify_signature()
    return (len(pe.signatures) > 0 and "OK" in str(flags)), f"{flags} {len(pe.signatures)}"


def by_signify(path, store):
    with open(path, "rb") as file:
        try:
            return True, f"ok {len(AuthenticodeFile.from_stream(file).verify(trusted_certificate_store=store))}"
        except Exception as error:
            return False, f"{type(error).__name__}: {error}"


store = FileSystemCertificateStore(location=pathlib.Path(sys.argv[1]), trusted=True)
good = True
for name in sys.argv[2:]:
    (lief_ok, lief_says), (signify_ok, signify_says) = by_lief(name), by_signify(name, store)
    good = good and lief_ok and signify_ok
    print(pathlib.Path(name).name, "|", lief_says, "|", signify_says)
sys.exit(0 if good else 1)
