"""The gRPC contracts of rsketch; each version of a contract is a package of its own below this one."""
