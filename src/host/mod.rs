//! (under construction)

pub mod clock;
pub mod fpm;
pub mod notify;
pub mod stamp;
