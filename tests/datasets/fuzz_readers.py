"""Fuzz targets for the readers of raw files, run by `make fuzz` with atheris.

For any bytes and column types, a reader gives a result or raises `BadLine` or `UserError`.
"""

import sys
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parents[2]))  # a script finds only what lies beside it

with atheris.instrument_imports(include=["mma4ctr"]):
    import pyarrow as pa

    from mma4ctr.datasets import tiktok, tiktok_features, wechat
    from mma4ctr.runtime.errors import BadLine, UserError
    from mma4ctr.storage.delimited import DelimitedText
    from mma4ctr.storage.text_blocks import Block
    from tests.datasets.arrow_readers import read_asked, read_lines, read_text
    from tests.datasets.fuzz_described import check, columns, csv_blocks

BLOCK = Block(Path("fuzzed"), 0, 0, 0)


def integers(columns, delimiter, quoted):
    """The compiled and the Python reader of whole numbers give the same result."""
    types = dict.fromkeys(columns, pa.int64())
    readers = [
        DelimitedText(list(columns), types, delimiter=delimiter, quoted=quoted, compiled=compiled)
        for compiled in (False, True)
    ]

    def parse(data):
        answers = []
        for reader in readers:
            try:
                answers.append(reader.parse(data).to_pydict())
            except BadLine as error:
                answers.append(str(error))
        assert answers[0] == answers[1], data

    return parse


HEADS = Path(sys.argv[-1])  # a folder with the header lines that WeChat's parsers read


def vectors(data):
    """The compiled and the Python reader of vectors give the same bits."""
    answers = []
    for compiled in (False, True):
        try:
            found = tiktok_features.parse_vectors(data, BLOCK, "video_feature_dim_128", 128, compiled=compiled)
            answers.append((found.ids.tolist(), found.length.tolist(), found.values.tobytes()))
        except BadLine as error:
            answers.append(str(error))
    assert answers[0] == answers[1], data


def parsers():
    """Return each reader as a function of bytes."""
    info, embedding = HEADS / "feed_info.csv", HEADS / "feed_embeddings.csv"
    lists = [name for names in wechat.LISTS.values() for name in names]
    texts = [name for names in wechat.TEXTS.values() for name in names]
    info.write_text(",".join(["feedid", *texts, *lists]) + "\n")
    embedding.write_text("feedid,feed_embedding\n")
    yield integers(tiktok.COLUMNS, "\t", False)
    yield integers(wechat.USER_ACTION_COLUMNS, ",", True)
    yield vectors
    yield lambda data: tiktok_features.parse_titles(data, BLOCK)
    yield lambda data: tiktok_features.parse_faces(data, BLOCK)
    parse_embedding = wechat._embedding_parser(embedding)
    yield lambda data: parse_embedding(data, BLOCK)
    for modality in wechat.TEXTS:
        parse_info = wechat._feed_info_parser(info, modality)
        yield lambda data, parse=parse_info: parse(data, BLOCK)
    yield columns
    yield read_lines
    yield read_text
    yield lambda data: read_text(data, "\t", quoted=False)
    yield read_asked
    yield csv_blocks(HEADS)
    yield check(HEADS / "own")


PARSERS = list(parsers())


SEEDS = [
    b"1\t2\t3\t4\t5\t6\t0\t1\t7\t8\t9\t10\n",
    b"1,2,3,4,0,1,0,1,0,1,0\n",
    b'{"item_id": 1, "video_feature_dim_128": [0.5, -1e3, 2]}\n{"video_feature_dim_128": [], "item_id": 2}\n',
    b'{"item_id": 1, "title_features": {"3": 1, "44": 2}}\n',
    b'{"item_id": 1, "face_attrs": [{"gender": 1, "beauty": 0.5, "relative_position": [0.1, 0.2, 0.3, 0.4]}]}\n',
    b'1,"0.5 1.5 -2 "\n',
    *[b"1,1 2 3,4 5,6;7,8,9.0,10;11,12;13,14;15,16 0.5;17 0.25\n"] * 3,
    bytes(range(64)),
    b'{"a": "x", "b": [1, null, "y"]}\n{"a": 1180591620717411303424, "b": {"c": true}}\n',
    b'1,"a ""b""\nc"\n,"d"\n"x,2\n',
    b'"1"\t"u 1"\n 2\t3\n',
    b'"1"\t2\nu"1\t001\n',
    b'\x071,"a ""b""\nc"\n,"d"\n"x,2\n',
    bytes(range(64)),
]


def write_seeds(folder: Path) -> None:
    """Write a valid input for each reader as a seed of the fuzzer."""
    folder.mkdir(exist_ok=True)
    assert len(SEEDS) == len(PARSERS)
    for number, text in enumerate(SEEDS):
        (folder / f"seed{number}").write_bytes(bytes([number]) + text)


def one_input(data: bytes) -> None:
    """Pass an input to a reader, which its first byte chooses."""
    if len(data) < 2:
        return
    try:
        PARSERS[data[0] % len(PARSERS)](data[1:])
    except (BadLine, UserError):
        return


write_seeds(HEADS / "corpus")
atheris.Setup([*sys.argv[:-1], str(HEADS / "corpus")], one_input)
atheris.Fuzz()
