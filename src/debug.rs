//! `Debug` for types with parts that cannot be shown, or must not be.

/// Implements `Debug` for a type with the named values only. Generic parameters stand in brackets before it:
///
/// ```text
/// impl_debug!([S: fmt::Debug, R] Retry<S, R>: |this| service = this.service, tries = this.tries());
/// ```
macro_rules! impl_debug {
    (
        $([$($generics:tt)*])? $name:ident $(<$($argument:tt),*>)?
        $(: |$this:ident| $($field:ident = $value:expr),+ $(,)?)?
    ) => {
        impl $(<$($generics)*>)? std::fmt::Debug for $name $(<$($argument),*>)? {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                $(let $this = self;)?
                f.debug_struct(stringify!($name))
                    $($(.field(stringify!($field), &$value))+)?
                    .finish_non_exhaustive()
            }
        }
    };
}
