"""Sources: the listing is fixed and safe, photos and points agree, mistakes are named."""

import io
import logging
import pickle
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distfacegan.core import landmarks
from distfacegan.errors import SourceError, UnreadablePhotoError
from distfacegan.sources import SOURCES
from distfacegan.sources.archive import Archive
from distfacegan.sources.celeba import CelebASource
from distfacegan.sources.folder import FolderSource
from distfacegan.sources.pts import FROM_68, read_pts

SHARED = Path(__file__).parents[2] / "shared" / "data"
LANDMARKS = "list_landmarks_align_celeba.txt"
POINTS = "69 109 106 113 77 142 73 152 108 154"


def photo(value: int = 0, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (20, 10), (value, 0, 0)).save(file, kind, **options)
    return file.getvalue()


def write_zip(path: Path, entries: dict[str, bytes], **options) -> Path:
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return path


def write_folder(folder: Path, entries: dict[str, bytes]) -> Path:
    for name, data in entries.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def write_pts(path: Path, points: np.ndarray) -> None:
    lines = [f"{x:.3f} {y:.3f}" for x, y in points]
    path.write_text("\n".join(["version: 1", f"n_points: {len(lines)}", "{", *lines, "}"]) + "\n")


PHOTOS = {f"img_align_celeba/{i:06d}.jpg": photo(i) for i in (3, 1, 2)}


def test_the_celeba_archive_its_folder_and_its_parent_are_the_same_source(tmp_path):
    write_zip(tmp_path / "a.zip", PHOTOS | {"img_align_celeba/": b"", "readme.txt": b"x"})
    write_folder(tmp_path, PHOTOS)
    paths = [tmp_path / "a.zip", tmp_path, tmp_path / "img_align_celeba"]
    sources = [CelebASource(path) for path in paths]
    for source in sources:
        assert source.keys == ["000001.jpg", "000002.jpg", "000003.jpg"]
        assert [source.read(row)[0, 0, 0] for row in range(3)] == [1, 2, 3]
        assert source.annotation(0) is None
    assert len({source.fingerprint() for source in sources}) == 1


def test_celebas_points_are_read_where_present(tmp_path):
    path = write_zip(tmp_path / "a.zip", PHOTOS)
    lines = ["2", "lefteye_x lefteye_y ...", f"000001.jpg  {POINTS}", f"999999.jpg {POINTS}"]
    (tmp_path / LANDMARKS).write_text("\n".join(lines) + "\n")
    source = CelebASource(path)
    expected = [[69, 109], [106, 113], [77, 142], [73, 152], [108, 154]]
    assert source.annotation(0).tolist() == expected
    assert source.annotation(0).dtype == np.float32
    assert source.annotation(1) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1"),
        (f"3\nheader\n000001.jpg {POINTS}\n", "line 1: says '3' photos, the file has 1"),
        ("1\nheader\n000001.jpg 69 109\n", "line 3: expected a name and 10 numbers"),
        (f"1\nheader\n{POINTS} x y\n", "line 3"),
        ("1\nheader\n000001.jpg 1 2 3 4 nan 6 7 8 9 10\n", "line 3"),
    ],
)
def test_malformed_celeba_points_are_named_by_line(tmp_path, text, message):
    path = write_zip(tmp_path / "a.zip", PHOTOS)
    (tmp_path / LANDMARKS).write_text(text)
    with pytest.raises(SourceError, match=message):
        CelebASource(path)


def test_a_bad_photo_among_good_ones_is_only_that_photo(tmp_path):
    truncated = photo(9, "JPEG")[:-300]
    entries = {"a.jpg": photo(1), "b.jpg": b"", "c.jpg": b"not a photo", "d.jpg": truncated}
    for source in (
        CelebASource(write_zip(tmp_path / "a.zip", entries)),
        FolderSource(write_folder(tmp_path / "folder", entries)),
    ):
        assert source.read(0).shape == (10, 20, 3)
        for row in (1, 2, 3):
            with pytest.raises(UnreadablePhotoError):
                source.read(row)


def test_damage_inside_an_archive_is_an_unreadable_photo(tmp_path):
    path = write_zip(tmp_path / "a.zip", {"a.jpg": photo(1), "b.jpg": photo(2)})
    data = bytearray(path.read_bytes())
    data[data.index(photo(1)) + 20] ^= 0xFF
    path.write_bytes(data)
    source = CelebASource(path)
    with pytest.raises(UnreadablePhotoError, match="CRC"):
        source.read(0)
    assert source.read(1)[0, 0, 0] == 2


def entry(name: str, **attributes) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    for key, value in attributes.items():
        setattr(info, key, value)
    return info


DEFLATED = {"compress_type": zipfile.ZIP_DEFLATED}
DANGEROUS = {
    "climbs": (entry("../evil.jpg"), b"x", "climbs out"),
    "climbs deep": (entry("img_align_celeba/../../evil.jpg"), b"x", "climbs out"),
    "absolute": (entry("/etc/evil.jpg"), b"x", "absolute"),
    "drive": (entry("C:evil.jpg"), b"x", "Windows path"),
    "backslash": (entry("..\\evil.jpg"), b"x", "Windows path"),
    "not even a photo": (entry("../evil.txt"), b"x", "climbs out"),
    "link": (entry("evil.jpg", external_attr=(stat.S_IFLNK | 0o777) << 16), b"/etc/x", "link"),
    "bomb": (entry("evil.jpg", **DEFLATED), bytes(2**24), "expands 1,0[0-9]{2}-fold"),
    "method": (entry("evil.jpg", compress_type=zipfile.ZIP_LZMA), b"x", "method 14"),
    "twice": (entry("img_align_celeba/000001.jpg"), b"x", "twice"),
}


@pytest.mark.parametrize("name", DANGEROUS)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_dangerous_archive_is_refused_by_the_name_of_its_entry(tmp_path, name):
    info, data, reason = DANGEROUS[name]
    path = write_zip(tmp_path / "a.zip", PHOTOS)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(info, data)
    with pytest.raises(SourceError, match=reason) as caught:
        CelebASource(path)
    assert repr(info.filename) in str(caught.value)


def patch_directory(path: Path, offset: int, value: bytes) -> None:
    """Overwrite bytes of the first central directory entry, which says what an entry is."""
    data = bytearray(path.read_bytes())
    start = data.index(b"PK\x01\x02") + offset
    data[start : start + len(value)] = value
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("offset", "value", "reason"),
    [(8, b"\x01\x00", "encrypted"), (24, (2**29).to_bytes(4, "little"), "expands to 536,870,912")],
)
def test_an_entry_that_is_encrypted_or_huge_is_refused(tmp_path, offset, value, reason):
    path = write_zip(tmp_path / "a.zip", {"a.jpg": photo()})
    patch_directory(path, offset, value)
    with pytest.raises(SourceError, match=reason):
        CelebASource(path)


def test_an_entry_that_lies_about_its_size_cannot_fill_memory(tmp_path):
    path = write_zip(tmp_path / "a.zip", {"a.jpg": bytes(2**27)}, compression=zipfile.ZIP_DEFLATED)
    patch_directory(path, 24, (1000).to_bytes(4, "little"))
    code = (
        "import resource, sys; from pathlib import Path\n"
        "from distfacegan.sources.archive import Archive\n"
        "from distfacegan.errors import UnreadablePhotoError\n"
        "archive = Archive(Path(sys.argv[1]))\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try: archive.read('a.jpg')\n"
        "except UnreadablePhotoError: print('unreadable')\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    verdict, grown_kib = done.stdout.split()
    assert verdict == "unreadable"
    assert int(grown_kib) < 2**14  # 16 MiB, where the entry would have been 128


def test_a_pickled_source_opens_its_archive_again(tmp_path):
    source = CelebASource(write_zip(tmp_path / "a.zip", PHOTOS))
    source.read(0)
    copy = pickle.loads(pickle.dumps(source))
    assert copy.keys == source.keys
    assert copy.read(2)[0, 0, 0] == 3


def test_the_archive_is_opened_once_per_process(tmp_path, monkeypatch):
    archive = Archive(write_zip(tmp_path / "a.zip", PHOTOS))
    opened = []
    real = zipfile.ZipFile
    monkeypatch.setattr(zipfile, "ZipFile", lambda *a: opened.append(a) or real(*a))
    for name in PHOTOS:
        archive.read(name)
    assert len(opened) == 1


@pytest.mark.parametrize(
    ("kind", "make", "message"),
    [
        ("celeba", lambda p: p / "none.zip", "nothing there"),
        ("celeba", lambda p: write_folder(p, {"x": b""}), "0 photos"),
        ("celeba", lambda p: write_folder(p, {"a.zip": b"<html>"}) / "a.zip", "not a zip archive"),
        ("celeba", lambda p: write_zip(p / "a.zip", {}), "no photos"),
        ("celeba", lambda p: write_zip(p / "a.zip", {"readme.txt": b"x"}), "no photos"),
        ("celeba", lambda p: write_zip(p / "a.zip", {"a/1.jpg": b"", "b/1.jpg": b""}), "same name"),
        ("folder", lambda p: p / "none", "found nothing"),
        ("folder", lambda p: write_zip(p / "a.zip", PHOTOS), "found a file"),
        ("folder", lambda p: p, "0 photos"),
        ("folder", lambda p: write_folder(p, {"a.heic": b"", "b.heic": b""}), r"\.heic 2"),
    ],
)
def test_what_is_no_source_says_what_was_found(tmp_path, kind, make, message):
    with pytest.raises(SourceError, match=message):
        SOURCES[kind](kind=kind, path=make(tmp_path)).open(seed=0)


def test_a_folder_lists_images_at_any_depth_and_counts_the_rest(tmp_path, caplog):
    wanted = ["B.JPG", "a/b/c.png", "a/b.jpeg", "ä.webp"]
    other = ["a/notes.txt", "x.heic", ".hidden.jpg", ".git/a.jpg", "__MACOSX/a.jpg", "a/._b.jpeg"]
    root = write_folder(tmp_path / "root", {name: photo() for name in wanted + other})
    (tmp_path / "secret.jpg").write_bytes(photo())
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "secret.jpg").write_bytes(photo())
    (root / "out.jpg").symlink_to(tmp_path / "secret.jpg")
    (root / "out").symlink_to(tmp_path / "elsewhere")
    (root / "dangling.jpg").symlink_to(root / "none.jpg")
    (root / "inside.png").symlink_to(root / "a" / "b" / "c.png")
    (root / "folder.jpg").mkdir()
    with caplog.at_level(logging.INFO, "distfacegan"):
        source = FolderSource(root)
    assert source.keys == ["B.JPG", "a/b.jpeg", "a/b/c.png", "inside.png", "ä.webp"]
    assert "5 photos, 0 with points" in caplog.text
    assert "1 links that leave the folder" in caplog.text
    assert ".txt 1" in caplog.text


def test_a_photo_without_permission_is_unreadable_and_a_lost_one_is_not(tmp_path, monkeypatch):
    source = FolderSource(write_folder(tmp_path, {"a.jpg": photo()}))

    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "denied")

    with monkeypatch.context() as patch:  # root may read anything: permissions cannot be tried
        patch.setattr(Path, "read_bytes", refuse)
        with pytest.raises(UnreadablePhotoError, match="permission"):
            source.read(0)
    (tmp_path / "a.jpg").unlink()
    with pytest.raises(FileNotFoundError):
        source.read(0)


def test_the_fingerprint_follows_names_and_sizes_but_not_the_place(tmp_path):
    def fingerprint(folder: str, entries: dict[str, bytes]) -> str:
        return FolderSource(write_folder(tmp_path / folder, entries)).fingerprint()

    first = fingerprint("1", {"a.png": b"xx", "b.png": b"y"})
    assert first == fingerprint("2", {"a.png": b"xx", "b.png": b"y"})
    others = [
        fingerprint("3", {"a.png": b"xx", "c.png": b"y"}),
        fingerprint("4", {"a.png": b"xx", "b.png": b"yy"}),
        fingerprint("5", {"a.png": b"xx"}),
    ]
    assert len({first, *others}) == 4


def test_the_fingerprint_follows_the_points(tmp_path):
    write_folder(tmp_path, {"a.jpg": photo()})
    fingerprints = set()
    for points in (np.full((49, 2), 3), np.full((49, 2), 4)):
        write_pts(tmp_path / "a.pts", points)
        fingerprints.add(FolderSource(tmp_path).fingerprint())
    assert len(fingerprints) == 2


def test_the_49_points_are_the_projects():
    assert FROM_68.tolist() == landmarks.IBUG_49


def test_a_pts_file_is_counted_from_one_and_loses_the_jaw(tmp_path):
    points = np.stack([np.arange(1, 69), np.arange(101, 169)], axis=1)
    write_pts(tmp_path / "a.pts", points)
    result = read_pts(tmp_path / "a.pts")
    # The first brow point is number 17 from zero: 18 in the file, 17 from zero again.
    assert result[0].tolist() == [17, 117]
    # Of the mouth, 48 to 67: 60 and 64 are missing.
    assert result[31:, 0].tolist() == [*range(48, 60), 61, 62, 63, 65, 66, 67]
    assert result.dtype == np.float32


def test_49_points_are_taken_as_they_are(tmp_path):
    points = np.arange(98).reshape(49, 2)
    write_pts(tmp_path / "a.pts", points)
    np.testing.assert_array_equal(read_pts(tmp_path / "a.pts"), points - 1)


GOOD = ["version: 1", "n_points:  49", "{", *["1.5 2.5"] * 49, "}"]


def changed(line: int, text: str) -> str:
    return "\n".join([*GOOD[: line - 1], text, *GOOD[line:]])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: expected `version: 1`, found the end of the file"),
        (changed(2, "n_points: 5"), "line 2: expected `n_points: 68` or 49, found 'n_points: 5'"),
        (changed(3, "1 2"), "line 3: expected `{`"),
        (changed(7, "1.5"), "line 7: expected point 4 of 49, as `x y`, found '1.5'"),
        (changed(7, "1.5 two"), "line 7"),
        (changed(7, "nan 1"), "line 7: expected point 4"),
        ("\n".join(GOOD[:20]), "line 21: expected point 18 of 49"),
        ("\n".join(GOOD[:-1]), "line 53: expected `}`"),
        ("\n".join([*GOOD, "1 2"]), "line 54: expected the end of the file, found '1 2'"),
    ],
)
def test_a_malformed_pts_file_stops_the_source_by_file_and_line(tmp_path, text, message):
    write_folder(tmp_path, {"b/a.jpg": photo(), "b/a.pts": text.encode()})
    with pytest.raises(SourceError, match=f"a.pts, {message}"):
        FolderSource(tmp_path)


def test_points_of_a_folder_follow_the_photo_when_exif_turns_it(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    write_folder(tmp_path, {"a.jpg": photo(0, "JPEG", exif=exif), "b.jpg": photo()})
    write_pts(tmp_path / "a.pts", np.tile([3, 1], (49, 1)))  # Matlab's: 2 and 0 from zero
    source = FolderSource(tmp_path)
    assert source.read(0).shape == (20, 10, 3)
    # Stored 20 wide, 10 high: the top row becomes the right column, 9; x becomes y.
    assert source.annotation(0)[0].tolist() == [9, 2]
    assert source.annotation(1) is None


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data: real photos")
def test_helens_points_lie_inside_their_photos():
    source = FolderSource(SHARED / "helen")
    assert len(source.keys) == 330
    for row in range(20):
        height, width = source.read(row).shape[:2]
        points = source.annotation(row)
        assert ((points > 0) & (points < (width, height))).all()
        assert points[19:25, 0].mean() < points[25:31, 0].mean()  # eyes: the image's left first
