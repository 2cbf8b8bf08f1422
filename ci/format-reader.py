#!/usr/bin/env python3
"""Reads a ComIO image, checks every byte of it, and writes the flat dump that it was made of.
Pages that rest on other images are read from these, which must be in the image's directory.

An independent reader: written from docs/format.md and docs/ecbc.md, so that these are known to be
enough. It is slow and simple; `comio unpack` is the tool for daily use.

Needs the Python packages xxhash and zstandard.
"""

import argparse
import os
import struct
import sys

import xxhash
import zstandard

BLOCK = PAGE = 4096
PAGES_MAX = 1024
BLOCKS_MAX = 1029
HEADER = 64
BITMAP = 128
DIGEST_LEN = 32
CHUNK_RAW_MAX = 1_114_120
ENTRY_BITMAP, STRICT, LAST_CHUNK, DIGEST = 1, 2, 4, 8
LOST = bytes(32)
ROW = 128
SAME, ELSEWHERE, DIFFERENCE, UNIT = 9, 10, 11, 14
HAVE_NO_BYTES = (0, 1, SAME, ELSEWHERE, 15)
UNCHECKED = 1 << 8
DICTIONARY = b"\x37\xa4\x30\xec"


class Damaged(Exception):
    """The bytes are not what was written."""


class Unsupported(Exception):
    """The image needs a newer reader."""


def require(condition, problem):
    if not condition:
        raise Damaged(problem)


def support(condition, what):
    if not condition:
        raise Unsupported(what)


def xxh3(data, seed=0):
    return xxhash.xxh3_64_intdigest(data, seed)


def is_zero(data):
    return not any(data)


def set_bits(bitmap):
    return [bit for bit in range(8 * len(bitmap)) if bitmap[bit // 8] >> bit % 8 & 1]


# Page coders


def decode_lz4(code, size=PAGE):
    page = bytearray()
    at = 0

    def length(field):
        nonlocal at
        total = field
        while field == 15:
            total += code[at]
            at += 1
            if code[at - 1] != 255:
                break
        return total

    while True:
        token = code[at]
        at += 1
        literals = length(token >> 4)
        require(at + literals <= len(code), "LZ4 literals beyond the code")
        page += code[at : at + literals]
        at += literals
        if at == len(code):
            return page
        distance = int.from_bytes(code[at : at + 2], "little")
        at += 2
        copy_match(page, distance, length(token & 15) + 4, size)


def decode_page_lz(code, size=PAGE):
    page = bytearray()
    at = 0
    distance = 8

    def number(size):
        nonlocal at
        require(at + size <= len(code), "page LZ header beyond the code")
        at += size
        return int.from_bytes(code[at - size : at], "little")

    def length(field):
        if field < 7:
            return field
        extension = number(1)
        return 7 + (extension if extension < 255 else number(2))

    while at < len(code):
        token = number(1)
        mode = token & 3
        if mode == 1:
            distance = number(1)
        elif mode == 2:
            distance = 8 * number(1)
        elif mode == 3:
            distance = number(2)
        match = length(token >> 2 & 7) + 5
        literals = length(token >> 5)
        require(at + literals <= len(code), "page LZ literals beyond the code")
        page += code[at : at + literals]
        at += literals
        if len(page) == size:
            break
        copy_match(page, distance, match, size)
        if len(page) == size:
            break
    require(at == len(code), "page LZ code goes on behind the page")
    return page


class Bits:
    """The bits of a code from byte `at` on, lowest first; zeros behind its end."""

    def __init__(self, code, at):
        self.bits = int.from_bytes(code[at:], "little")
        self.read = 0

    def take(self, count):
        taken = self.bits & (1 << count) - 1
        self.bits >>= count
        self.read += count
        return taken

    def symbol(self, table):
        bits = ""
        while (symbol := table.get(bits)) is None:
            require(len(bits) < 11, "no code begins like this")
            bits += str(self.take(1))
        return symbol


def prefix_code(lengths):
    """Symbols by their bits, in the order in which these are read."""
    table, code = {}, 0
    for length in range(1, 12):
        for symbol, own in enumerate(lengths):
            if own == length:
                table[format(code, f"0{length}b")] = symbol
                code += 1
        code *= 2
    return table


def code_lengths(name):
    path = os.path.join(os.path.dirname(__file__), "../core/src/ecbc/page_lz/packed", name)
    with open(path) as file:
        return [int(digit, 16) for line in file for digit in line.strip()]


def packed_tables():
    lengths = code_lengths("lengths.txt")
    literals = [prefix_code(lengths[256 * i : 256 * i + 256]) for i in range(8)]
    return literals, prefix_code(lengths[8 * 256 :]), prefix_code(code_lengths("upon/lengths.txt"))


def packed_literals(code):
    """The literals, and where the tokens begin."""
    header = int.from_bytes(code[:8], "little")
    count = header & 0xFFF
    if count < 64:
        require(2 + count <= len(code), "literals beyond the code")
        return code[2 : 2 + count], 2 + count
    require(count <= 4092, "too many literals")
    literals = bytearray()
    at = 8
    for stream in range(4):
        kind = header >> 12 + 3 * stream & 7
        end = at + (header >> 24 + 10 * stream & 0x3FF)
        bits = Bits(code, at)
        for _ in range(min(-(-count // 4), count - len(literals))):
            literals.append(bits.symbol(PACKED_LITERALS[kind]) if kind else bits.take(8))
        require(-(-bits.read // 8) <= end - at, "a stream is longer than it says")
        at = end
    require(at <= len(code), "streams beyond the code")
    return literals, at


def decode_packed_lz(code):
    literals, tokens_at = packed_literals(code)
    bits = Bits(code, tokens_at)
    page = bytearray()
    used = 0
    distances = [8, 16]
    classes = {2: (5, 3), 3: (4, 0), 4: (8, 0), 5: (8, 3), 6: (12, 0)}

    def length(field, most):
        if field < most:
            return field
        extension = bits.take(8)
        return most + (extension if extension < 255 else bits.take(12))

    while PAGE - len(page) != len(literals) - used:
        require(tokens_at + bits.read // 8 <= len(code), "tokens beyond the code")
        token = bits.symbol(PACKED_TOKENS)
        if token == 896:
            token = bits.take(10)
            require(token < 896, "a token that is none")
        kind = token >> 7
        if kind > 1:
            count, shift = classes[kind]
            distances = [bits.take(count) << shift, distances[0]]
        elif kind == 1:
            distances.reverse()
        match = length(token >> 3 & 15, 15) + 5
        run = length(token & 7, 7)
        require(used + run <= len(literals), "more literals than there are")
        page += literals[used : used + run]
        used += run
        copy_match(page, distances[0], match)
    require(-(-bits.read // 8) == len(code) - tokens_at, "the code ends early or late")
    return page + literals[used:]


def decode_words(code):
    mask = int.from_bytes(code[:8], "little")
    tags_at = 8
    at = 8 + 4 * mask.bit_count()
    words = []
    for group in range(64):
        if not mask >> group & 1:
            words += [0] * 8
            continue
        tags = int.from_bytes(code[tags_at : tags_at + 4], "little")
        tags_at += 4
        for i in range(8):
            tag = tags >> 4 * i & 15
            like = 0
            if tag > 8:
                back = len(words) - 1 - code[at]
                like = words[back] if back >= 0 else 0
                at += 1
                tag -= 9
            words.append(like >> 8 * tag << 8 * tag | int.from_bytes(code[at : at + tag], "little"))
            at += tag
    require(at == len(code), "the code ends early or late")
    return struct.pack("<512Q", *words)


def copy_match(page, distance, length, size=PAGE):
    require(0 < distance <= len(page), "a match from before the page")
    require(len(page) + length <= size, "a match beyond the page")
    for _ in range(length):
        page.append(page[-distance])


def decode_zstd(code):
    header = (1 + 2 * 2 + 8 * len(code)).to_bytes(3, "little")
    frame = b"\x28\xb5\x2f\xfd" + b"\x00\x10" + header + code
    return zstd_frame(frame, PAGE)


def decode_difference(code, base):
    require(base[:4] != DICTIONARY, "a difference to what looks like a dictionary")
    header = (1 + 2 * 2 + 8 * len(code)).to_bytes(3, "little")
    frame = b"\x28\xb5\x2f\xfd" + b"\x60\x00\x0f" + header + code
    dictionary = zstandard.ZstdCompressionDict(base, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    return zstd_frame(frame, PAGE, dictionary)


def decode_packed_difference(code, base):
    try:
        return packed_difference(code, base)
    except IndexError as error:
        raise Damaged("the code is cut off") from error


def packed_difference(code, base):
    literals, tokens_at = packed_literals(code)
    bits = Bits(code, tokens_at)
    window = bytearray(base)
    used = 0
    other = 8
    classes = {2: (5, 3), 3: (4, 0), 4: (8, 0), 5: (8, 3), 6: (13, 0)}
    extra = [0] * 8 + [1, 2, 3, 4, 5, 7, 12]
    while 2 * PAGE - len(window) != len(literals) - used:
        require(tokens_at + bits.read // 8 <= len(code), "tokens beyond the code")
        token = bits.symbol(DIFFERENCE_TOKENS)
        if token == 896:
            token = bits.take(10)
            require(token < 896, "a token that is none")
        kind, field, run = token >> 7, token >> 3 & 15, token & 7
        if kind > 1:
            count, shift = classes[kind]
            other = bits.take(count) << shift
        match = None
        if field < 15:
            match = (5 if kind else 3) + sum(1 << bit for bit in extra[:field]) + bits.take(extra[field])
        if run == 7:
            extension = bits.take(8)
            run += extension if extension < 255 else bits.take(12)
        require(used + run <= len(literals), "more literals than there are")
        window += literals[used : used + run]
        used += run
        match = 2 * PAGE - len(window) if match is None else match
        require(match > 0, "an empty match")
        copy_match(window, other if kind else PAGE, match, 2 * PAGE)
    require(-(-bits.read // 8) == len(code) - tokens_at, "the code ends early or late")
    return bytes((window + literals[used:])[PAGE:])


def zstd_frame(frame, size, dictionary=None):
    decoder = zstandard.ZstdDecompressor(dict_data=dictionary).decompressobj()
    try:
        data = decoder.decompress(frame)
    except zstandard.ZstdError as error:
        raise Damaged(f"zstd: {error}") from error
    require(decoder.eof and not decoder.unused_data, "not exactly one zstd frame")
    require(len(data) == size, f"{len(data)} bytes instead of {size}")
    return data


PACKED_LITERALS, PACKED_TOKENS, DIFFERENCE_TOKENS = packed_tables()
CODERS = {3: decode_lz4, 4: decode_zstd, 5: decode_page_lz, 12: decode_packed_lz, 13: decode_words}
UNIT_CODERS = {
    3: decode_lz4,
    4: lambda code, size: zstd_frame(b"\x28\xb5\x2f\xfd" + code, size),
    5: decode_page_lz,
}


def decode_unit(tag, code, size):
    support(tag in UNIT_CODERS, f"units of coder {tag}")
    try:
        unit = UNIT_CODERS[tag](code, size)
    except IndexError as error:
        raise Damaged("the code is cut off") from error
    require(len(unit) == size, f"a unit of {len(unit)} bytes")
    return bytes(unit)


def decode_code(tag, code):
    try:
        page = CODERS[tag](code)
    except IndexError as error:
        raise Damaged("the code is cut off") from error
    require(len(page) == PAGE, f"a page of {len(page)} bytes")
    return bytes(page)


# Parts


class Part:
    """Header and table of a page segment or frame chunk, checked."""

    def __init__(self, data, uuid, offset):
        fields = struct.unpack_from("<8s16sQIIQHHBBBBQ", data)
        (magic, own_uuid, own_offset, self.number, self.pages, self.first_pfn, self.blocks, words,
         self.kind, default_tag, self.pfn_map, self.flags, self.check) = fields
        self.offset = offset
        require(magic == b"CIOSEG01", "no segment header")
        require(own_uuid == uuid and own_offset == offset, "header of another image or place")
        self.table_end = HEADER + 8 * words
        require(self.table_end <= self.blocks * BLOCK, "the table is longer than the segment")
        require(self.blocks <= BLOCKS_MAX, "a segment longer than segments are")
        require(len(data) >= self.table_end, "the table is cut off")
        sealed = data[: HEADER - 8] + bytes(8) + data[HEADER : self.table_end]
        require(xxh3(sealed) == self.check, "the check of header and table")
        support(self.kind <= 1, f"kind {self.kind}")
        support(self.flags & ~(ENTRY_BITMAP | STRICT | LAST_CHUNK | DIGEST) == 0, f"flags {self.flags}")
        support(default_tag == 0 or default_tag & 15 == SAME, f"default tag {default_tag}")
        self.default = default_tag and default_tag | UNCHECKED
        support(self.pfn_map <= 2, f"pfn map {self.pfn_map}")
        support(self.kind == 1 or self.pages <= PAGES_MAX, f"{self.pages} pages")
        self.table = data[HEADER : self.table_end]


class Segment(Part):
    """A page segment: its pfns and entries."""

    def __init__(self, data, uuid, offset):
        super().__init__(data, uuid, offset)
        require(self.kind == 0, "frame bytes where pages are expected")
        self.uuid = uuid
        self.last_unit = (None, None)
        rest = self._read_pfns(self.table)
        if self.flags & DIGEST:
            require(len(rest) >= DIGEST_LEN, "the digest is cut off")
            rest = rest[:-DIGEST_LEN]
        self._read_entries(rest)

    def _read_pfns(self, table):
        if self.pfn_map == 0:
            self.pfns = list(range(self.first_pfn, self.first_pfn + self.pages))
            return table
        size = BITMAP if self.pfn_map == 1 else 8 * self.pages
        require(len(table) >= size, "the pfn map is cut off")
        if self.pfn_map == 1:
            self.pfns = [self.first_pfn + bit for bit in set_bits(table[:BITMAP])]
        else:
            self.pfns = list(struct.unpack_from(f"<{self.pages}Q", table))
        require(len(self.pfns) == self.pages, "the pfn map has another number of pages")
        require(not self.pfns or self.pfns[0] == self.first_pfn, "another first pfn")
        return table[size:]

    def _read_entries(self, table):
        if self.flags & ENTRY_BITMAP:
            present = set_bits(table[:BITMAP])
            table = table[BITMAP:]
        else:
            present = list(range(self.pages))
        require(len(table) == 8 * len(present), "the table has another length")
        require(not present or present[-1] < self.pages, "entries of pages that are not")
        self.entries = [self.default] * self.pages
        for page, entry in zip(present, struct.unpack(f"<{len(present)}Q", table)):
            self.entries[page] = entry

    def extent(self, entry):
        """Where in the segment the page's bytes are."""
        start = self.table_end + 8 * (entry >> 16 & 0x7FFFF)
        if entry & 15 == UNIT:
            end = start + 256 * ((entry >> 8 & 0xFF) + 1)
        else:
            end = start + (entry >> 4 & 0xFFF) + 1
        require(end <= self.blocks * BLOCK, "a page reaches beyond the segment")
        return start, end

    def reference(self, index, data):
        """What a page rests on: (ancestor, (segment, index) or None for the same pfn)."""
        entry = self.entries[index]
        tag = entry & 15
        if tag == SAME:
            unused = 0x7FFFFFE00 if not entry & UNCHECKED else ~0x1FF
            require(entry & unused == 0, "malformed same entry")
            return entry >> 4 & 15, None
        if tag == ELSEWHERE:
            return entry >> 4 & 15, (entry >> 18 & 0x1FFFF, entry >> 8 & 0x3FF)
        if tag == DIFFERENCE:
            return self._difference(index, data)[0]
        return None

    def _difference(self, index, data):
        start, end = self.extent(self.entries[index])
        code = self._checked(data[start:end], self.pfns[index])
        kind, ancestor = code[0] >> 4, code[0] & 15
        support(kind <= 3, f"differences of kind {kind}")
        decode = decode_packed_difference if kind & 2 else decode_difference
        if not kind & 1:
            return (ancestor, None), decode, code[1:]
        require(len(code) >= 5, "a difference to nothing")
        place = int.from_bytes(code[1:5], "little")
        return (ancestor, (place >> 10, place & 0x3FF)), decode, code[5:]

    def page(self, index, data, base=None):
        """The contents of a page; `data` is the segment, `base` the page that it rests on."""
        entry = self.entries[index]
        tag = entry & 15
        if tag in (SAME, ELSEWHERE, DIFFERENCE):
            page = base
            if tag == DIFFERENCE:
                _, decode, code = self._difference(index, data)
                page = decode(code, base)
            checked = tag != SAME or not entry & UNCHECKED
            require(not checked or xxh3(page) & 0x1FFFFFFF == entry >> 35, "the check of the page's contents")
            return page
        if tag == 0:
            require(entry == 0, "malformed zero entry")
            return bytes(PAGE)
        if tag == 1:
            require(entry & ~(0xFFFFFFFF << 16) == 1, "malformed fill entry")
            return struct.pack("<I", entry >> 16) * (PAGE // 4)
        if tag == 15:
            require(entry == 15, "malformed absent entry")
            raise Damaged("a page without contents")
        support(tag in (2, UNIT) or tag in CODERS, f"page tag {tag}")
        start, end = self.extent(entry)
        if tag == UNIT:
            page = self._page_of_unit(start, data[start:end], entry >> 4 & 15)
        elif tag == 2:
            require(end - start == PAGE, "a stored page that is none")
            page = data[start:end]
        else:
            page = self._decode(tag, data[start:end], self.pfns[index])
        require(xxh3(page) & 0x1FFFFFFF == entry >> 35, "the check of the page's contents")
        return page

    def _decode(self, tag, blob, pfn):
        return decode_code(tag, self._checked(blob, pfn))

    def _page_of_unit(self, start, reach, number):
        if self.last_unit[0] != start:
            pages, blob = reach[3], reach[: self.unit_length(reach)]
            # Bound to its place in the segment, as other blobs are to their pages.
            code = self._checked(blob, ~(start - self.table_end) & 0xFFFFFFFFFFFFFFFF)
            self.last_unit = (start, decode_unit(reach[2], code[4:], pages * PAGE))
        unit = self.last_unit[1]
        require(PAGE * number < len(unit), "a page beyond its unit")
        return unit[PAGE * number :][:PAGE]

    def unit_length(self, reach):
        """Bytes of the unit at the beginning of what an entry says that it reaches."""
        length = int.from_bytes(reach[:2], "little") + 1 + 8
        require(length <= len(reach), "a unit beyond its reach")
        return length

    def unit_lengths(self, data):
        """Bytes of each unit, by where it begins."""
        reaches = {self.extent(entry) for entry in self.entries if entry & 15 == UNIT}
        return {start: self.unit_length(data[start:end]) for start, end in reaches}

    def _checked(self, blob, pfn):
        require(len(blob) >= 5, "a blob without code")
        code, check = blob[:-4], int.from_bytes(blob[-4:], "little")
        seed = int.from_bytes(self.uuid[:8], "little") ^ pfn
        require(xxh3(code, seed) & 0xFFFFFFFF == check, "the check of the stored bytes")
        return code

    def check_padding(self, data):
        """Everything that no page uses is zero, and no two pages share bytes."""
        used = [self.extent(entry) for entry in self.entries if entry & 15 not in (*HAVE_NO_BYTES, UNIT)]
        used += [(start, start + length) for start, length in self.unit_lengths(data).items()]
        free = self.table_end
        for start, end in sorted(used) + [(self.blocks * BLOCK,) * 2]:
            require(start >= free, "two pages share bytes")
            require(is_zero(data[free:start]), "padding that is not zero")
            free = end
        if self.flags & STRICT:
            straddling = [1 for start, end in used if start // BLOCK != (end - 1) // BLOCK]
            require(not straddling, "a page across a boundary in a strict segment")


class Chunk(Part):
    """A frame chunk: its items."""

    def __init__(self, data, uuid, offset):
        super().__init__(data, uuid, offset)
        require(self.kind == 1 and len(self.table) == 8, "pages where frame bytes are expected")
        end = self.table_end + self.pages
        require(end <= self.blocks * BLOCK, "stored bytes beyond the chunk")
        stored = data[self.table_end : end]
        require(xxh3(stored) == int.from_bytes(self.table, "little"), "the hash of the frame bytes")
        require(is_zero(data[end:]), "padding that is not zero")
        require(self.first_pfn <= CHUNK_RAW_MAX, "a chunk larger than chunks are")
        self.raw = zstd_frame(stored, self.first_pfn)

    def items(self):
        at = 0
        while at < len(self.raw):
            length, at = self._leb128(at)
            require(at + length <= len(self.raw), "an item crosses its chunk")
            yield self.raw[at : at + length]
            at += length

    def _leb128(self, at):
        value = 0
        for i, byte in enumerate(self.raw[at : at + 4]):
            value |= (byte & 0x7F) << 7 * i
            if byte < 0x80:
                return value, at + i + 1
        raise Damaged("an item's length does not end")


# The image


class Image:
    """An image whose superblock, footer and directory were checked."""

    def __init__(self, file):
        self.file = file
        self.opened = {}
        self.last = (None, None)
        self.len = file.seek(0, 2)
        require(self.len >= 2 * BLOCK and self.len % BLOCK == 0, f"an image of {self.len} bytes")
        self._read_superblock()
        self._read_footer()
        self._read_directory()

    def read(self, offset, length):
        self.file.seek(offset)
        data = self.file.read(length)
        require(len(data) == length, "the file ends too early")
        return data

    def _read_superblock(self):
        block = self.read(0, BLOCK)
        support(block[:8] == b"ComIOimg", "not a ComIO image")
        require(xxh3(block[:-8]) == int.from_bytes(block[-8:], "little"), "superblock check")
        version, flags, self.uuid, self.created, page_size, self.tape_format, generator, ancestors = (
            struct.unpack_from("<II16sQII32sI", block, 8)
        )
        support(version == 1, f"version {version}")
        support(flags == 0, f"superblock flags {flags:#x}")
        support(page_size == PAGE, f"pages of {page_size} bytes")
        support(ancestors <= 16, f"{ancestors} ancestors")
        rows = [block[1024 + ROW * k :][:ROW] for k in range(16)]
        require(is_zero(b"".join(rows[ancestors:])), "rows behind the table of ancestors")
        self.ancestors = [self._ancestor(row) for row in rows[:ancestors]]
        self.generator = generator.rstrip(b"\0").decode()
        self.superblock_check = xxh3(block)

    def _ancestor(self, row):
        uuid, check, role, length = struct.unpack_from("<16sQBB", row)
        support(1 <= role <= 3, f"an ancestor of role {role}")
        require(length <= 96, "an ancestor's name is too long")
        return uuid, check, row[32 : 32 + length].decode()

    def _read_footer(self):
        block = self.read(self.len - BLOCK, BLOCK)
        require(block[:8] == b"CIOFOOT1" and block[-8:] == b"ComIOend", "no footer")
        require(xxh3(block[:4080]) == int.from_bytes(block[4080:4088], "little"), "footer check")
        (uuid, superblock_check, self.directory_at, self.directory_check, self.segment_count,
         self.chunk_count, flags) = struct.unpack_from("<16sQQQIII", block, 8)
        support(flags & ~1 == 0, f"footer flags {flags:#x}")
        self.incomplete = flags & 1 != 0
        require(uuid == self.uuid and superblock_check == self.superblock_check, "another's footer")
        self.footer_check = int.from_bytes(block[4080:4088], "little")
        self.rests_on = struct.unpack_from("<16Q", block, 368)
        totals = struct.unpack_from("<38Q", block, 64)
        self.totals, self.tag_pages, self.tag_bytes = totals[:6], totals[6:22], totals[22:]

    def _read_directory(self):
        count = self.segment_count + self.chunk_count
        length = self.len - BLOCK - self.directory_at
        require(length == -(-32 * count // BLOCK) * BLOCK, "the directory's length")
        require(self.incomplete or self.directory_at // BLOCK >= count, "too many parts")
        directory = self.read(self.directory_at, length)
        require(xxh3(directory) == self.directory_check, "directory check")
        require(is_zero(directory[32 * count :]), "directory padding")
        entries = [directory[32 * i : 32 * i + 32] for i in range(count)]
        self.segments = entries[: self.segment_count]
        self.chunks = entries[self.segment_count :]

    def part(self, entry, number, kind):
        """The part of a directory entry, and its bytes."""
        require(entry != LOST, "this part was lost")
        offset, first_pfn, pages, blocks, words, check = struct.unpack("<QQIHHQ", entry)
        require(offset % BLOCK == 0 and 0 < blocks <= BLOCKS_MAX, "a directory entry")
        require(offset + blocks * BLOCK <= self.directory_at, "a part beyond the directory")
        data = self.read(offset, blocks * BLOCK)
        part = kind(data, self.uuid, offset)
        says = (part.first_pfn, part.pages, part.blocks, part.table_end, part.check, part.number)
        told = (first_pfn, pages, blocks, HEADER + 8 * (words & 0x7FFF), check, number)
        require(says == told, "header and directory differ")
        require((words >> 15 != 0) == (part.kind == 0 and part.pfn_map == 2), "the list bit")
        return part, data

    def segment(self, number):
        """A segment and its bytes; the last one is kept."""
        require(number < len(self.segments), "a segment that is not there")
        if self.last[0] != number:
            self.last = (number, self.part(self.segments[number], number, Segment))
        return self.last[1]

    def place_of(self, pfn):
        """Segment and index of a page."""
        for number, entry in enumerate(self.segments):
            first_pfn, listed = struct.unpack_from("<8xQ6xH", entry)
            if entry == LOST or not (first_pfn <= pfn < first_pfn + PAGES_MAX or listed >> 15):
                continue
            segment, _ = self.segment(number)
            if pfn in segment.pfns:
                return number, segment.pfns.index(pfn)
        raise Damaged(f"there is no page {pfn}")

    def ancestor(self, uuid):
        """The ancestor of that uuid: by its name, then by uuid, beside the image."""
        if uuid in self.opened:
            return self.opened[uuid]
        found = [row for row in self.ancestors if row[0] == uuid]
        require(found, "a page rests on an image that is not among the ancestors")
        _, check, name = found[0]
        directory = os.path.dirname(os.path.abspath(self.file.name))
        others = sorted(other for other in os.listdir(directory) if other != name)
        for candidate in ([name] if name and "/" not in name else []) + others:
            path = os.path.join(directory, candidate)
            if not os.path.isfile(path):
                continue
            with open(path, "rb") as file:
                head = file.read(32)
            if head[:8] == b"ComIOimg" and head[16:32] == uuid:
                image = Image(open(path, "rb"))  # pylint: disable=consider-using-with
                require(image.footer_check == check, f"the ancestor {candidate} was changed")
                self.opened[uuid] = image
                return image
        raise Damaged(f"the ancestor {name} is missing")

    def page_at(self, number, index, rests=None, root=None):
        """The contents of a page, through at most two others; `rests` takes their ancestors."""
        segment, data = self.segment(number)
        reference = segment.reference(index, data)
        if reference is None:
            return segment.page(index, data)
        row, place = reference
        require(row < len(self.ancestors), f"there is no ancestor {row}")
        ancestor = (root or self).ancestor(self.ancestors[row][0])
        if rests is not None:
            rests.add(ancestor.uuid)
        at = place or ancestor.place_of(segment.pfns[index])
        under, _ = ancestor.segment(at[0])
        require(at[1] < under.pages, "a page rests on one that is not there")
        tag = under.entries[at[1]] & 15
        same = segment.entries[index] & 15 != DIFFERENCE
        allowed = tag not in (SAME, ELSEWHERE, 15) if same else tag in (2, *CODERS)
        require(root is None or tag != DIFFERENCE, "a page rests on more than two others")
        require(allowed, f"a page rests on one of tag {tag}")
        return segment.page(index, data, ancestor.page_at(*at, rests, root or self))

    def page(self, pfn):
        """The contents of one page."""
        return self.page_at(*self.place_of(pfn))

    def tape(self):
        """The pages and frame bytes of the tape, in order: (bytes, segment or None)."""
        segments = iter(enumerate(self.segments))
        for number, entry in enumerate(self.chunks):
            chunk, _ = self.part(entry, number, Chunk)
            last = chunk.flags & LAST_CHUNK != 0
            require(last == (number + 1 == self.chunk_count), "which chunk is the last")
            for item in chunk.items():
                if item:
                    yield item, None
                    continue
                place = next(segments, None)
                require(place is not None, "more segments placed than there are")
                yield self._pages(place)
        require(next(segments, None) is None, "segments that are nowhere on the tape")

    def _pages(self, place):
        number, _ = place
        segment, data = self.segment(number)
        pages = []
        segment.rests_on = [0] * 16
        for index, pfn in enumerate(segment.pfns):
            try:
                rests = set()
                pages.append(self.page_at(number, index, rests))
            except Damaged as error:
                raise Damaged(f"page {pfn}: {error}") from error
            for row, ancestor in enumerate(self.ancestors):
                segment.rests_on[row] += ancestor[0] in rests
        segment.check_padding(data)
        segment.units = segment.unit_lengths(data)
        return b"".join(pages), segment


class Totals:
    """What the footer says, counted again."""

    def __init__(self):
        self.pages = self.blobs = self.tables = self.padding = self.frame = self.stored = 0
        self.tag_pages, self.tag_bytes = [0] * 16, [0] * 16
        self.rests_on = [0] * 16

    def add_segment(self, segment):
        self.rests_on = [sum(pair) for pair in zip(self.rests_on, segment.rests_on)]
        blobs = 0
        for entry in segment.entries:
            tag = entry & 15
            length = 0 if tag in HAVE_NO_BYTES else (entry >> 4 & 0xFFF) + 1
            if tag == UNIT:
                # A unit counts for its first page.
                length = 0 if entry >> 4 & 15 else segment.units[segment.extent(entry)[0]]
            self.tag_pages[tag] += 1
            self.tag_bytes[tag] += length
            blobs += length
        whole = segment.blocks * BLOCK
        table = segment.table_end if blobs else whole
        self.pages += segment.pages
        self.blobs += blobs
        self.tables += table
        self.padding += whole - table - blobs

    def add_chunks(self, entries):
        for entry in entries:
            _, raw, _, blocks, _, _ = struct.unpack("<QQIHHQ", entry)
            self.frame += raw
            self.stored += blocks * BLOCK

    def verify(self, image):
        counted = (self.pages, self.blobs, self.tables, self.padding, self.frame, self.stored)
        require(counted == image.totals, f"the footer's totals {image.totals}, counted {counted}")
        tags = (tuple(self.tag_pages), tuple(self.tag_bytes))
        require(tags == (image.tag_pages, image.tag_bytes), "the footer's counts by tag")
        # An estimate, but 0 is certain.
        needed = [counted for said, counted in zip(image.rests_on, self.rests_on) if said == 0]
        require(not any(needed), "pages rest on an ancestor that the footer says is not needed")


def unpack(image, out):
    """Checks the whole image; writes the flat dump to `out` if there is one."""
    require(not image.incomplete, "the image is incomplete")
    support(out is None or image.tape_format == 1, f"unpacking tape format {image.tape_format}")
    totals = Totals()
    next_pfn, tail = 0, 0
    for data, segment in image.tape():
        if segment:
            totals.add_segment(segment)
        if image.tape_format == 1 and segment:
            require(next_pfn % PAGES_MAX == 0, "a flat dump's segment that is not full")
            require(tail == 0, "pages behind a flat dump's tail")
            wanted = list(range(next_pfn, next_pfn + segment.pages))
            require(segment.pfns == wanted, "a flat dump's pages out of order")
            next_pfn += segment.pages
        elif not segment:
            tail += len(data)
        if out:
            out.write(data)
    require(image.tape_format != 1 or tail < PAGE, "a flat dump's tail of a page or more")
    totals.add_chunks(image.chunks)
    totals.verify(image)
    counts = ", ".join(f"tag {tag}: {count}" for tag, count in enumerate(totals.tag_pages) if count)
    print(f"whole: {totals.pages} pages ({counts}), made by {image.generator}", file=sys.stderr)


def act(image, arguments):
    if not arguments.out:
        unpack(image, None)
        return
    with open(arguments.out, "wb") as out:
        if arguments.pfn is None:
            unpack(image, out)
        else:
            out.write(image.page(arguments.pfn))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("image")
    parser.add_argument("out", nargs="?", help="the flat dump to write; without it only checks")
    parser.add_argument("--pfn", type=int, help="write this page alone")
    arguments = parser.parse_args()
    try:
        with open(arguments.image, "rb") as file:
            act(Image(file), arguments)
    except Damaged as error:
        sys.exit(f"{arguments.image}: damaged: {error}")
    except Unsupported as error:
        sys.exit(f"{arguments.image}: needs another reader: {error}")


if __name__ == "__main__":
    main()
