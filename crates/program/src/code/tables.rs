//! WIP
use crate::image::Image;
use crate::reference::Form;

/// RVA that one table entry leads to; `None` if it lies outside of the image.
pub(super) fn entry_target(image: &Image, site: u32, form: Form, anchor: u32) -> Option<u32> {
    let rva = match form {
        Form::Relative => i64::from(anchor) + i64::from(image.u32(site)? as i32),
        Form::ImageRelative => i64::from(image.u32(site)?),
        Form::Absolute => i64::try_from(image.u64(site)?.checked_sub(image.image_base)?).ok()?,
        _ => return None,
    };
    u32::try_from(rva).ok().filter(|r| *r <= image.size_of_image)
}
