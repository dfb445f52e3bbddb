//! PCI registers on one side, rings and workers on the other.
