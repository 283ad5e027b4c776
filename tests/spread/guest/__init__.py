"""A Linux guest for QEMU, made of Debian's kernel and an initramfs of our own."""

from spread.guest.image import Image, make

__all__ = ["Image", "make"]
