//! The files of a lab's machines: the image's overlay, blank disks, firmware variables.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use headnode_command::Command;

use super::host;
use super::paths::Paths;
use super::spec::{Firmware, KeyBus, LabSpec, MachineSpec, Rom};

/// Zeros of this length are left out of the unpacked image.
const HOLE: usize = 64 << 10;

/// The name of the headnode's boot disk in its folder.
pub const KEY_FILE: &str = "key.qcow2";
/// The folder of a machine with what QEMU serves to it by TFTP.
pub const SERVED: &str = "served";
/// The name of a UEFI machine's variables in its folder.
pub const VARS_FILE: &str = "vars.fd";

/// What a node's make-believe PXE ROM does: ask as a plain ROM would, and load what it is told.
///
/// The user class must be gone when the loaded program starts: iPXE passes its settings on in the
/// DHCP packets that it keeps for it, and `undionly.kpxe` would then not call itself iPXE.
pub const PXE_ROM_SCRIPT: &str = "#!ipxe
echo lab: PXE ROM of ${net0/mac}
:retry
set user-class PXEClient-lab
dhcp net0 || goto retry
clear user-class
echo lab: PXE ROM loads ${filename} from ${next-server}
chain tftp://${next-server}/${filename} ||
echo lab: PXE ROM tries again
sleep 2
goto retry
";

/// The name of a data disk in its machine's folder.
pub fn disk_file(index: usize) -> String {
    format!("disk{index}.raw")
}

/// The name of the copy of a virtual disk in its machine's folder.
pub fn image_file(index: usize) -> String {
    format!("disk{index}.image")
}

/// Finds the image and says what is wrong with it.
///
/// # Errors
/// When it is not there or no file.
pub fn check_image(image: &Path) -> Result<()> {
    let meta = std::fs::metadata(image)
        .with_context(|| format!("opening the image {}", image.display()))?;
    if !meta.is_file() {
        bail!("the image {} is no file", image.display());
    }
    if meta.len() == 0 {
        bail!("the image {} is empty", image.display());
    }
    Ok(())
}

/// Makes the lab's ssh key unless it is there; returns the private key's path.
///
/// # Errors
/// When the folder cannot be written to, or `ssh-keygen` fails.
pub fn make_key(paths: &Paths) -> Result<PathBuf> {
    let key = paths.file("id_ed25519");
    if !key.exists() {
        std::fs::create_dir_all(paths.dir())
            .with_context(|| format!("making the folder {}", paths.dir().display()))?;
        Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-C", "headnode-lab", "-f"])
            .arg(&key)
            .run()
            .context("making the lab's ssh key")?;
    }
    Ok(key)
}

/// Makes all files of all machines. The image itself is only read.
///
/// # Errors
/// When the image cannot be read or the lab's folder not be written to.
pub fn prepare(paths: &Paths, spec: &LabSpec) -> Result<()> {
    let served = spec.machines.iter().any(|m| m.key == Some(KeyBus::Pxe));
    let image = match served {
        true => spec.image.clone(),
        false => unpack(&spec.image, &paths.file("image.raw"))?,
    };
    if spec.machines.iter().any(|m| m.rom == Some(Rom::Pxe) && m.firmware == Firmware::Bios) {
        std::fs::write(paths.file("pxe-rom.ipxe"), PXE_ROM_SCRIPT)
            .context("writing the PXE ROM's script")?;
    }
    for machine in &spec.machines {
        prepare_machine(paths, machine, &image)
            .with_context(|| format!("making the files of {}", machine.name))?;
    }
    Ok(())
}

fn prepare_machine(paths: &Paths, machine: &MachineSpec, image: &Path) -> Result<()> {
    let dir = paths.machine(&machine.name);
    std::fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
    for (index, size) in machine.disks.iter().enumerate() {
        let path = dir.join(disk_file(index));
        File::create(&path)
            .and_then(|file| file.set_len(*size))
            .with_context(|| format!("making the blank disk {}", path.display()))?;
    }
    for (index, image) in (machine.disks.len()..).zip(&machine.disk_images) {
        copy_disk(image, &dir.join(image_file(index)))?;
    }
    if machine.firmware.is_uefi() {
        std::fs::copy(host::OVMF_VARS, dir.join(VARS_FILE)).context("copying UEFI's variables")?;
    }
    if machine.key == Some(KeyBus::Pxe) {
        unpack_served(image, &dir.join(SERVED))
            .with_context(|| format!("unpacking {} for the boot server", image.display()))?;
    } else if machine.key.is_some() {
        let image = image.canonicalize().with_context(|| format!("finding {}", image.display()))?;
        let format = format_of(&image)?;
        Command::new("qemu-img")
            .args(["create", "-q", "-f", "qcow2", "-F", format, "-b"])
            .arg(image)
            .arg(dir.join(KEY_FILE))
            .run()
            .context("laying an overlay over the image")?;
    }
    Ok(())
}

/// Copies a virtual disk; its holes stay holes. A raw one is refused: its format could not be told
/// any more once its machine has written to it.
fn copy_disk(image: &Path, to: &Path) -> Result<()> {
    if format_of(image)? == "raw" {
        bail!("the disk {} is neither qcow2 nor vmdk", image.display());
    }
    File::open(image)
        .and_then(|from| write_sparse(BufReader::new(from), to))
        .with_context(|| format!("copying the disk {}", image.display()))
}

/// Unpacks the files for boot servers.
fn unpack_served(bundle: &Path, to: &Path) -> Result<()> {
    let file = BufReader::new(File::open(bundle)?);
    // Never outside of the folder: the crate refuses such paths.
    tar::Archive::new(flate2::bufread::MultiGzDecoder::new(file)).unpack(to)?;
    Ok(())
}

/// What QEMU calls the format of an image, which its first bytes tell.
fn format_of(image: &Path) -> Result<&'static str> {
    let mut magic = [0; 4];
    let mut file = File::open(image).with_context(|| format!("opening {}", image.display()))?;
    let known = file.read(&mut magic).with_context(|| format!("reading {}", image.display()))?;
    Ok(match &magic[..known] {
        b"QFI\xfb" => "qcow2",
        b"KDMV" => "vmdk",
        _ => "raw",
    })
}

/// Unpacks a compressed image into `to`; any other is used where it lies.
fn unpack(image: &Path, to: &Path) -> Result<PathBuf> {
    let file = File::open(image).with_context(|| format!("opening {}", image.display()))?;
    let mut file = BufReader::with_capacity(1 << 20, file);
    let mut magic = [0; 4];
    let known = file.read(&mut magic).with_context(|| format!("reading {}", image.display()))?;
    file.seek(SeekFrom::Start(0))?;
    // By content, not by name: a renamed file works too.
    let reader: Box<dyn Read> = match &magic[..known] {
        [0x28, 0xb5, 0x2f, 0xfd] => Box::new(zstd::stream::read::Decoder::with_buffer(file)?),
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(file)),
        _ => return Ok(image.to_owned()),
    };
    write_sparse(reader, to)
        .with_context(|| format!("unpacking {} to {}", image.display(), to.display()))?;
    Ok(to.to_owned())
}

fn write_sparse(mut from: impl Read, to: &Path) -> std::io::Result<()> {
    let mut out = File::create(to)?;
    let mut block = vec![0; HOLE];
    let mut length = 0;
    loop {
        let mut filled = 0;
        while filled < block.len() {
            match from.read(&mut block[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if filled == 0 {
            return out.set_len(length);
        }
        if block[..filled].iter().all(|b| *b == 0) {
            out.seek(SeekFrom::Current(filled as i64))?;
        } else {
            out.write_all(&block[..filled])?;
        }
        length += filled as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_compressed_image_is_unpacked_sparse_and_a_raw_one_is_used_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let raw = folder.path().join("image.img");
        let mut bytes = vec![7u8; 100];
        bytes.resize(5 << 20, 0);
        bytes[3 << 20] = 9;
        std::fs::write(&raw, &bytes).unwrap();
        let to = folder.path().join("image.raw");
        assert_eq!(unpack(&raw, &to).unwrap(), raw);
        let packed = folder.path().join("image.img.zst");
        std::fs::write(&packed, zstd::encode_all(&bytes[..], 1).unwrap()).unwrap();
        assert_eq!(unpack(&packed, &to).unwrap(), to);
        assert_eq!(std::fs::read(&to).unwrap(), bytes);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&bytes).unwrap();
        let packed = folder.path().join("renamed");
        std::fs::write(&packed, gzip.finish().unwrap()).unwrap();
        assert_eq!(unpack(&packed, &to).unwrap(), to);
        assert_eq!(std::fs::read(&to).unwrap(), bytes);
    }

    #[test]
    fn the_format_of_an_image_is_known_by_its_content() {
        let folder = tempfile::tempdir().unwrap();
        for (format, name) in [("raw", "a.qcow2"), ("qcow2", "b.img"), ("vmdk", "c.img")] {
            let image = folder.path().join(name);
            let options: &[&str] =
                if format == "vmdk" { &["-o", "subformat=streamOptimized"] } else { &[] };
            let create = Command::new("qemu-img").args(["create", "-q", "-f", format]);
            create.args(options).arg(&image).arg("1M").run().unwrap();
            assert_eq!(format_of(&image).unwrap(), format);
        }
    }

    #[test]
    fn a_missing_or_empty_image_is_told() {
        let folder = tempfile::tempdir().unwrap();
        assert!(check_image(&folder.path().join("none")).is_err());
        let empty = folder.path().join("empty");
        File::create(&empty).unwrap();
        assert!(check_image(&empty).unwrap_err().to_string().contains("empty"));
    }
}
