"""Fuzzes the readers of raw text: whatever the bytes, they parse or raise `BadLine`. Run by `make fuzz` (atheris)."""

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["mma4ctr"]):
    import pyarrow as pa

    from mma4ctr.datasets import tiktok, wechat
    from mma4ctr.delimited import DelimitedText
    from mma4ctr.rawfiles import BadLine, Block

BLOCK = Block(Path("fuzzed"), 0, 0, 0)


def integers(columns, delimiter, quoted):
    """A reader of whole numbers: compiled or not, the answer must be the same."""
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
    """Compiled or not, the vectors must be the same to the bit."""
    answers = []
    for compiled in (False, True):
        try:
            found = tiktok.parse_vectors(data, BLOCK, "video_feature_dim_128", 128, compiled=compiled)
            answers.append((found.ids.tolist(), found.length.tolist(), found.values.tobytes()))
        except BadLine as error:
            answers.append(str(error))
    assert answers[0] == answers[1], data


def parsers():
    """Each reader, as a function of bytes."""
    info, embedding = HEADS / "feed_info.csv", HEADS / "feed_embeddings.csv"
    lists = [name for names in wechat.LISTS.values() for name in names]
    texts = [name for names in wechat.TEXTS.values() for name in names]
    info.write_text(",".join(["feedid", *texts, *lists]) + "\n")
    embedding.write_text("feedid,feed_embedding\n")
    yield integers(tiktok.COLUMNS, "\t", False)
    yield integers(wechat.USER_ACTION_COLUMNS, ",", True)
    yield vectors
    yield lambda data: tiktok.parse_titles(data, BLOCK)
    yield lambda data: tiktok.parse_faces(data, BLOCK)
    parse_embedding = wechat._embedding_parser(embedding)
    yield lambda data: parse_embedding(data, BLOCK)
    for modality in wechat.TEXTS:
        parse_info = wechat._feed_info_parser(info, modality)
        yield lambda data, parse=parse_info: parse(data, BLOCK)


PARSERS = list(parsers())


SEEDS = [
    b"1\t2\t3\t4\t5\t6\t0\t1\t7\t8\t9\t10\n",
    b"1,2,3,4,0,1,0,1,0,1,0\n",
    b'{"item_id": 1, "video_feature_dim_128": [0.5, -1e3, 2]}\n{"video_feature_dim_128": [], "item_id": 2}\n',
    b'{"item_id": 1, "title_features": {"3": 1, "44": 2}}\n',
    b'{"item_id": 1, "face_attrs": [{"gender": 1, "beauty": 0.5, "relative_position": [0.1, 0.2, 0.3, 0.4]}]}\n',
    b'1,"0.5 1.5 -2 "\n',
    *[b"1,1 2 3,4 5,6;7,8,9.0,10;11,12;13,14;15,16 0.5;17 0.25\n"] * 3,
]


def write_seeds(folder: Path) -> None:
    """A whole input for each reader, to start from."""
    folder.mkdir(exist_ok=True)
    for number, text in enumerate(SEEDS):
        (folder / f"seed{number}").write_bytes(bytes([number]) + text)


def one_input(data: bytes) -> None:
    """The first byte chooses the reader."""
    if len(data) < 2:
        return
    try:
        PARSERS[data[0] % len(PARSERS)](data[1:])
    except BadLine:
        return


write_seeds(HEADS / "corpus")
atheris.Setup([*sys.argv[:-1], str(HEADS / "corpus")], one_input)
atheris.Fuzz()
