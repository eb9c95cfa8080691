"""Tools for tests of workflows and plugins: a source with crashes among its rows, faults, a virtual
clock, and conformance suites for sources, catalogues, destinations, tables, keyed lookups and stateful steps.

It is used in tests only. It may import any room, and no room imports it.
"""

from __future__ import annotations

from dataflare.jobs.chaos.fault_proxy import NO_FAULTS, FaultProxy, Faults
from dataflare.testing.build import description, destination_of, processor_of, source_of
from dataflare.testing.catalogs import check_catalog
from dataflare.testing.clock import VirtualClock
from dataflare.testing.contract import ContractBroken
from dataflare.testing.destinations import DESTINATION_LAWS, check_destination
from dataflare.testing.faults import FlakyStore, disk_faults
from dataflare.testing.lab import Lab
from dataflare.testing.lookups import LOOKUP_LAWS, check_lookup
from dataflare.testing.marks import Checkpoint, Crash, Pause, rows
from dataflare.testing.processors import PROCESSOR_LAWS, check_processor
from dataflare.testing.recorded_disk import DiskState, RecordedDisk
from dataflare.testing.scripted import ScriptedSource
from dataflare.testing.sources import SOURCE_LAWS, check_source, read_source
from dataflare.testing.tables import TABLE_LAWS, check_table

__all__ = [
    "DESTINATION_LAWS",
    "LOOKUP_LAWS",
    "NO_FAULTS",
    "PROCESSOR_LAWS",
    "SOURCE_LAWS",
    "TABLE_LAWS",
    "Checkpoint",
    "ContractBroken",
    "Crash",
    "DiskState",
    "FaultProxy",
    "Faults",
    "FlakyStore",
    "Lab",
    "Pause",
    "RecordedDisk",
    "ScriptedSource",
    "VirtualClock",
    "check_catalog",
    "check_destination",
    "check_lookup",
    "check_processor",
    "check_source",
    "check_table",
    "description",
    "destination_of",
    "disk_faults",
    "processor_of",
    "read_source",
    "rows",
    "source_of",
]
