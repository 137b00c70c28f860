"""What kernels and storage both know of a record: its header, in words of 4 bytes, and its checksum.

sum64 = CHECKSUM_SEED + sum over words j >= 2 of ((CHECKSUM_FACTOR * (j + 1)) mod 2^32 | 1) * w[j], mod 2^64
(multiply-and-add hashing with fixed odd keys, Carter and Wegman 1979).
"""

from typing import Final

VECTOR_HEADER_WORDS: Final = 8  # checksum (2 words), rid (2), norm, scale, two reserved
WORD_NORM: Final = 4  # float32, Euclidean norm of the stored vector
WORD_SCALE: Final = 5  # float32, value = scale * int8, or scale * float16; 1.0 under float32
ALIGN_WORDS: Final = 8  # vectors are padded to multiples of 32 bytes, which aligns payloads for vector loads
CHECKSUM_SEED: Final = 0x6271_7374_6F72_6531  # not 0, so that a record of zeros (a hole in the file) is invalid
CHECKSUM_FACTOR: Final = 0x9E37_79B1
