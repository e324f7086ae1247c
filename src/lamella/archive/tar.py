"""Tar archives: members, reading, writing."""

from lamella.archive.member import Member, MemberType
from lamella.archive.tar_reader import TarScanner
from lamella.archive.tar_writer import TarWriter

__all__ = ["Member", "MemberType", "TarScanner", "TarWriter"]
