"""Judges a bill of materials by CycloneDX 1.6: PyPI's cyclonedx-python-lib, which ci/setup installs."""

import sys

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

with open(sys.argv[1], encoding="utf-8") as bill:
    error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(bill.read())
sys.exit(str(error) if error else 0)
