//! Promise: image folders have their classes in the order of their names, nothing outside the directory is read, and
//! images are decoded and resampled as torchvision does.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use super::support::{LFS_POINTER, encode, open, plain, put, read, read_part};
use distillery_core::dataset::{DatasetFormat, Error, Frame, Rectangle, discover, plane_bytes};
use image::{DynamicImage, GrayImage, ImageFormat, Luma, Rgb, RgbImage, Rgba, RgbaImage};

/// Decodes one encoded image.
fn decoded(bytes: &[u8], side: u32) -> Result<Vec<u8>, String> {
    part(bytes, &Frame::Whole, side)
}

/// Decodes a part of one encoded image.
fn part(bytes: &[u8], frame: &Frame<'_>, side: u32) -> Result<Vec<u8>, String> {
    let dir = tempfile::tempdir().unwrap();
    put(&dir.path().join("train/a/1.png"), bytes);
    read_part(&open(dir.path()).unwrap(), "train", 0, frame, side).map_err(|error| {
        assert!(error.is_users());
        error.to_string()
    })
}

#[test]
fn classes_and_files_are_in_the_order_of_their_names() {
    let dir = tempfile::tempdir().unwrap();
    for (path, red) in [
        ("train/dog/10.png", 10),
        ("train/dog/2.PNG", 20),
        ("train/Cat/b.png", 30),
        ("train/ape/x.png", 40),
        ("val/dog/1.png", 50),
        ("val/ape/1.png", 60),
    ] {
        put(&dir.path().join(path), &plain(red));
    }
    for noise in ["train/readme.txt", "train/dog/notes.txt", "train/dog/.hidden.png", "train/.cache/x.png", "x.png"] {
        put(&dir.path().join(noise), b"noise");
    }
    fs::create_dir(dir.path().join("logs")).unwrap();
    let dataset = open(dir.path()).unwrap();
    assert_eq!(
        (dataset.format(), dataset.splits()),
        (DatasetFormat::Folder, vec!["train".to_owned(), "val".to_owned()])
    );
    assert_eq!(dataset.classes().count, 3);
    assert_eq!(dataset.classes().names.as_deref().unwrap(), ["Cat", "ape", "dog"]);
    assert_eq!(dataset.split("train").unwrap().labels(), [0, 1, 2, 2]);
    let reds: Vec<_> = (0..4).map(|index| read(&dataset, "train", index, 2).unwrap()[0]).collect();
    assert_eq!(reds, [30, 40, 10, 20]);
    // The classes are the training split's, also where another split lacks one.
    assert_eq!(dataset.split("val").unwrap().labels(), [1, 2]);
    assert_eq!(dataset.eval_split(None).unwrap(), "val");
    let summary = dataset.summary().unwrap();
    assert_eq!((summary.images, summary.classes), (6, 3));
    assert_eq!(summary.size_bytes, 6 * plain(10).len() as u64);
}

#[test]
fn classes_that_do_not_agree_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    put(&dir.path().join("train/a/1.png"), &plain(1));
    put(&dir.path().join("test/b/1.png"), &plain(2));
    let message = open(dir.path()).unwrap().split("test").unwrap_err().to_string();
    assert!(message.contains("test/b") && message.contains("which the train split does not have"), "{message}");
    fs::create_dir(dir.path().join("train/b")).unwrap();
    let message = open(dir.path()).unwrap_err().to_string();
    assert!(message.contains("train/b") && message.contains("add images"), "{message}");
    let empty = tempfile::tempdir().unwrap();
    fs::create_dir_all(empty.path().join("train")).unwrap();
    assert!(matches!(open(empty.path()), Err(Error::UnknownLayout { .. })));
    put(&empty.path().join("train/a/1.png"), &plain(1));
    fs::create_dir_all(empty.path().join("test/a")).unwrap();
    let message = open(empty.path()).unwrap().split("test").unwrap_err().to_string();
    assert!(message.contains("the test split is empty"), "{message}");
}

#[test]
fn links_stay_within_the_data_set() {
    let outside = tempfile::tempdir().unwrap();
    put(&outside.path().join("secret/1.png"), &plain(9));
    let make = || {
        let dir = tempfile::tempdir().unwrap();
        put(&dir.path().join("train/a/1.png"), &plain(1));
        dir
    };
    let dir = make();
    symlink(dir.path().join("train/a"), dir.path().join("train/b")).unwrap();
    symlink("1.png", dir.path().join("train/a/2.png")).unwrap();
    symlink("..", dir.path().join("train/a/up")).unwrap();
    let dataset = open(dir.path()).unwrap();
    assert_eq!(dataset.split("train").unwrap().labels(), [0, 0, 1, 1]);

    let target = outside.path().join("secret");
    for (link, to) in [("train/a/3.png", target.join("1.png")), ("train/c", target), ("test", outside.path().into())] {
        let dir = make();
        symlink(to, dir.path().join(link)).unwrap();
        let message = open(dir.path()).unwrap_err().to_string();
        assert!(message.contains(link) && message.contains("leads out of the data set's directory"), "{message}");
    }
    let dir = make();
    symlink("gone", dir.path().join("train/a/4.png")).unwrap();
    assert!(open(dir.path()).unwrap_err().to_string().contains("broken link"));
    // The data set itself may be a link, which the operator has set.
    let base = tempfile::tempdir().unwrap();
    symlink(make().keep(), base.path().join("linked")).unwrap();
    assert_eq!(discover(base.path(), false).unwrap().datasets[0].name, "linked");
}

#[test]
fn every_kind_of_pixel_becomes_three_planes() {
    let gradient = RgbImage::from_fn(3, 3, |x, y| Rgb([(10 * x) as u8, (20 * y) as u8, (x + y) as u8]));
    let planes: Vec<u8> = (0..3).flat_map(|channel| gradient.pixels().map(move |pixel| pixel[channel])).collect();
    assert_eq!(decoded(&encode(gradient.clone(), ImageFormat::Png), 3).unwrap(), planes);
    let grey = GrayImage::from_fn(3, 3, |x, y| Luma([(x * 3 + y) as u8]));
    let encoded = encode(grey.clone(), ImageFormat::Png);
    assert_eq!(decoded(&encoded, 3).unwrap(), grey.as_raw().repeat(3));
    // Transparency is dropped, not blended.
    let clear = RgbaImage::from_fn(3, 3, |x, y| {
        let Rgb([red, green, blue]) = *gradient.get_pixel(x, y);
        Rgba([red, green, blue, 0])
    });
    assert_eq!(decoded(&encode(clear, ImageFormat::Png), 3).unwrap(), planes);
    let deep = DynamicImage::ImageLuma16(image::ImageBuffer::from_pixel(3, 3, Luma([0x8080])));
    assert_eq!(decoded(&encode(deep, ImageFormat::Png), 3).unwrap(), [0x80; 27]);
    // The first bytes decide, not the name.
    let jpeg = decoded(&encode(RgbImage::from_pixel(8, 8, Rgb([200, 100, 50])), ImageFormat::Jpeg), 8).unwrap();
    for (plane, expected) in jpeg.chunks(64).zip([200_u8, 100, 50]) {
        assert!(plane.iter().all(|value| value.abs_diff(expected) < 4), "{plane:?}");
    }
}

/// Each value within one of Pillow's, which torchvision's transforms use (`resize(…, Image.BILINEAR)`).
fn assert_near(ours: &[u8], pillow: &[u8]) {
    assert_eq!(ours.len(), pillow.len());
    assert!(ours.iter().zip(pillow).all(|(ours, pillow)| ours.abs_diff(*pillow) <= 1), "{ours:?} {pillow:?}");
}

#[test]
fn images_are_resampled_as_pillow_does() {
    let halves = RgbImage::from_fn(64, 32, |x, _| if x < 32 { Rgb([0, 0, 0]) } else { Rgb([255, 0, 0]) });
    let planes = decoded(&encode(halves, ImageFormat::Png), 4).unwrap();
    assert_near(&planes, &[[0, 32, 223, 255].repeat(4), vec![0; 32]].concat());
    // Antialiased: stripes of one pixel become grey, where point sampling would give one of the two colours.
    let stripes = RgbImage::from_fn(64, 64, |x, _| if x % 2 == 0 { Rgb([0; 3]) } else { Rgb([200; 3]) });
    let planes = decoded(&encode(stripes, ImageFormat::Png), 8).unwrap();
    assert_near(&planes, &[96, 100, 100, 100, 100, 100, 100, 104].repeat(24));
    // Wider than high, and by no whole factor.
    let uneven = uneven();
    let red = [
        [30, 74, 124, 174, 193],
        [68, 112, 162, 208, 123],
        [113, 157, 192, 120, 59],
        [158, 202, 129, 46, 90],
        [196, 162, 60, 84, 128],
    ];
    let green = [10, 62, 164, 153, 166].repeat(5);
    let blue = [13, 62, 120, 178, 227].map(|value| [value; 5]);
    let planes = decoded(&encode(uneven, ImageFormat::Png), 5).unwrap();
    assert_near(&planes, &[red.concat(), green, blue.concat()].concat());
    // Enlarged without overshoot.
    let planes = decoded(&plain(77), 32).unwrap();
    assert!(planes[..1024].iter().all(|&value| value == 77));
}

/// 13 × 7 pixels.
fn uneven() -> RgbImage {
    RgbImage::from_fn(13, 7, |x, y| Rgb([(x * 19 + y * 31) as u8, (x * x * 5) as u8, (y * 40) as u8]))
}

fn rectangle([left, top, width, height]: [f64; 4]) -> Rectangle {
    Rectangle { left, top, width, height, mirrored: false }
}

#[test]
fn a_part_is_resampled_as_pillow_does() {
    let png = encode(uneven(), ImageFormat::Png);
    // resize((4, 4), Image.BILINEAR, box=(2.5, 1.25, 9.75, 6.0))
    let chosen = |size| {
        assert_eq!(size, [13, 7]);
        rectangle([2.5, 1.25, 7.25, 4.75])
    };
    let red = [[99, 134, 167, 201], [134, 169, 202, 182], [169, 204, 150, 67], [204, 195, 59, 53]];
    let blue = [55, 101, 146, 195].map(|value| [value; 4]);
    let expected = [red.concat(), [46, 117, 190, 129].repeat(4), blue.concat()].concat();
    assert_near(&part(&png, &Frame::Part(&chosen), 4).unwrap(), &expected);
    let mirrored = |size| Rectangle { mirrored: true, ..chosen(size) };
    let expected: Vec<u8> = expected.chunks(4).flat_map(|row| row.iter().rev().copied()).collect();
    assert_near(&part(&png, &Frame::Part(&mirrored), 4).unwrap(), &expected);
}

#[test]
fn a_part_of_a_jpeg_is_that_of_its_decoded_pixels() {
    for name in ["half_colours", "full_colours", "grey", "progressive"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../tests/fixtures/images/{name}.jpg"));
        let jpeg = fs::read(path).unwrap();
        let png = encode(image::load_from_memory(&jpeg).unwrap(), ImageFormat::Png);
        // Ends in every row of two blocks, and at the end of the image.
        for bottom in (81..=113).chain(148..=150) {
            let frame = |size| {
                assert_eq!(size, [90, 150]);
                rectangle([7.5, f64::from(bottom) - 80.5, 64.0, 80.5])
            };
            let found = part(&jpeg, &Frame::Part(&frame), 17).unwrap();
            assert!(found == part(&png, &Frame::Part(&frame), 17).unwrap(), "{name}, to row {bottom}");
        }
        // Where the end is missing, the image is left out, whatever part of it is wanted.
        let top = |_| rectangle([0.0, 0.0, 90.0, 40.0]);
        for length in [jpeg.len() / 2, jpeg.len() * 3 / 4, jpeg.len() - 40] {
            let message = part(&jpeg[..length], &Frame::Part(&top), 40).unwrap_err();
            assert!(message.contains("it ends too early"), "{name}: {message}");
        }
        // As for Pillow, a missing end marker alone is nothing, and neither is what follows it.
        for bytes in [&jpeg[..jpeg.len() - 2], &[&jpeg[..], &[0xff; 3], b"more"].concat()] {
            assert!(decoded(bytes, 20).unwrap() == decoded(&png, 20).unwrap(), "{name}");
        }
    }
}

#[test]
fn the_centre_is_what_torchvision_evaluates_on() {
    // Resize(5) to 9 × 5 and CenterCrop(4), computed with Pillow as torchvision does.
    let red = [[69, 96, 124, 152], [107, 134, 162, 190], [152, 179, 198, 188], [197, 224, 133, 24]];
    let blue = [13, 62, 120, 178].map(|value| [value; 4]);
    let expected = [red.concat(), [50, 104, 182, 160].repeat(4), blue.concat()].concat();
    assert_near(&part(&encode(uneven(), ImageFormat::Png), &Frame::Centre { resize: 5 }, 4).unwrap(), &expected);
    // At 256 pixels nothing is resampled: 224 of them, exactly.
    let wide = RgbImage::from_fn(320, 256, |x, y| Rgb([x as u8, y as u8, (x / 2) as u8]));
    let planes = part(&encode(wide, ImageFormat::Png), &Frame::Centre { resize: 256 }, 224).unwrap();
    for (at, &red) in planes[..224 * 224].iter().enumerate() {
        assert_eq!(u32::from(red), (48 + at as u32 % 224) % 256, "pixel {at}");
    }
    assert_eq!(planes[224 * 224..][..224], [16; 224]);
}

#[test]
fn a_part_beyond_the_image_is_cut_off() {
    let png = encode(uneven(), ImageFormat::Png);
    let whole = decoded(&png, 3).unwrap();
    for beyond in [[-3.0, -5.0, 900.0, 900.0], [0.0, 0.0, 13.5, f64::INFINITY]] {
        assert_eq!(part(&png, &Frame::Part(&|_| rectangle(beyond)), 3).unwrap(), whole);
    }
    for odd in [[12.9, 6.9, 0.0, -1.0], [1e9, 1e9, 1e9, 1e9], [3.0, 3.0, 1e-9, 1e-9]] {
        part(&png, &Frame::Part(&|_| rectangle(odd)), 3).unwrap();
    }
}

#[test]
fn what_cannot_be_decoded_names_the_file() {
    let whole = plain(5);
    for length in 0..whole.len() - 12 {
        let message = decoded(&whole[..length], 2).unwrap_err();
        assert!(message.contains("train/a/1.png"), "{length}: {message}");
    }
    for bytes in [&b"GIF89a"[..], b"<svg/>", b""] {
        assert!(decoded(bytes, 2).unwrap_err().contains("is not a PNG, JPEG, WebP, BMP, TIFF or PPM image"));
    }
    for bytes in [&b"BM"[..], b"RIFF\0\0\0\0WEBP", b"II*\0", b"P6"] {
        let message = decoded(bytes, 2).unwrap_err();
        assert!(message.contains("is damaged: ") && !message.contains('{'), "{message}");
    }
    // The checksum of the header is wrong, which the decoder tells in the notation of its source code.
    let mut wrong = plain(5);
    wrong[29] ^= 1;
    let message = decoded(&wrong, 2).unwrap_err();
    assert!(message.ends_with("1.png: is damaged: it cannot be decoded as PNG. Replace it"), "{message}");
    assert!(decoded(LFS_POINTER, 2).unwrap_err().contains("is a Git LFS pointer"));
}

#[test]
fn images_that_claim_to_be_huge_are_refused_before_they_take_memory() {
    // The header of a PNG of 60000 × 60000 pixels, its checksum right.
    let mut png = b"\x89PNG\r\n\x1a\n\0\0\0\x0d".to_vec();
    let mut header = b"IHDR".to_vec();
    header.extend(60_000_u32.to_be_bytes());
    header.extend(60_000_u32.to_be_bytes());
    header.extend([8, 2, 0, 0, 0]);
    let mut crc = flate2::Crc::new();
    crc.update(&header);
    png.extend(&header);
    png.extend(crc.sum().to_be_bytes());
    png.extend(b"\0\0\0\0IDAT\x35\xaf\x06\x1e");
    let message = decoded(&png, 2).unwrap_err();
    assert!(message.contains("60000 × 60000") && message.contains("at most 64 million"), "{message}");
}

const FORMATS: [ImageFormat; 6] =
    [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::WebP, ImageFormat::Bmp, ImageFormat::Tiff, ImageFormat::Pnm];

#[test]
fn every_format_is_read_exactly_and_its_truncations_are_named() {
    let image = RgbImage::from_fn(9, 9, |x, y| Rgb([(20 * x) as u8, (20 * y) as u8, (x * y) as u8]));
    let planes: Vec<u8> = (0..3).flat_map(|channel| image.pixels().map(move |pixel| pixel[channel])).collect();
    for format in FORMATS {
        let whole = encode(image.clone(), format);
        let found = decoded(&whole, 9).unwrap();
        assert!(format == ImageFormat::Jpeg || found == planes, "{format:?}");
        for length in 0..whole.len() {
            // The tail of some files says nothing about pixels.
            match decoded(&whole[..length], 9) {
                Ok(same) => assert!(same == found, "{format:?} of {length} bytes"),
                Err(message) => assert!(message.contains("train/a/1.png"), "{message}"),
            }
        }
        assert!(decoded(&whole[..whole.len() / 2], 9).is_err(), "{format:?}");
    }
}

#[test]
fn random_changes_to_an_image_never_panic() {
    let noise = RgbImage::from_fn(16, 80, |x, y| Rgb([(x * y) as u8, (x * 7) as u8, (y * 13) as u8]));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("train/a/1.png");
    let mut random = 0x5eed_u64;
    let mut below = |end: usize| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) as usize % end
    };
    for format in FORMATS {
        let whole = encode(noise.clone(), format);
        put(&path, &whole);
        let dataset = open(dir.path()).unwrap();
        let images = dataset.split("train").unwrap();
        for _ in 0..1_000 {
            let mut bytes = whole.clone();
            for _ in 0..=below(6) {
                let at = below(bytes.len());
                bytes[at] = below(256) as u8;
            }
            fs::write(&path, bytes).unwrap();
            drop(images.read(0, &Frame::Whole, 16, &mut vec![0; plane_bytes(16)]));
            let upper = |_| rectangle([1.0, 1.0, 9.0, 5.0]);
            drop(images.read(0, &Frame::Part(&upper), 16, &mut vec![0; plane_bytes(16)]));
        }
    }
}
