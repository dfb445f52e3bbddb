//! Kernel loading, memory map, ACPI tables and command line.
