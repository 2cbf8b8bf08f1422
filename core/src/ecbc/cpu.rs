//! Which of a coder's variants the machine can run.
//!
//! Coders are written once, without intrinsics where that costs nothing, and compiled twice: for
//! every machine, and for those with the instructions named here. Both give the same bytes.

/// What to compile or choose a variant for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cpu {
    /// Any machine.
    Any,
    /// x86-64 with BMI1, BMI2, LZCNT, POPCNT, SSSE3 and AVX2: those since about 2013.
    #[cfg(target_arch = "x86_64")]
    V3,
}

impl Cpu {
    /// This machine.
    pub(crate) fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("bmi2")
            && is_x86_feature_detected!("lzcnt")
            && is_x86_feature_detected!("popcnt")
            && is_x86_feature_detected!("ssse3")
            && is_x86_feature_detected!("avx2")
        {
            return Self::V3;
        }
        Self::Any
    }
}

/// Defines a function that runs its body, compiled for what `$cpu` has.
///
/// `$body` is an expression of `inline(always)` functions, so that they are compiled anew in each
/// variant.
macro_rules! compiled_for {
    ($cpu:expr, fn $name:ident $(<$generic:ident: $bound:ident $(, const $number:ident: usize)*>)? ($($arg:ident: $type:ty),* $(,)?) -> $result:ty $body:block) => {{
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "bmi1,bmi2,lzcnt,popcnt,ssse3,avx2")]
        fn v3$(<$generic: $bound $(, const $number: usize)*>)?($($arg: $type),*) -> $result $body
        fn any$(<$generic: $bound $(, const $number: usize)*>)?($($arg: $type),*) -> $result $body
        match $cpu {
            $crate::ecbc::cpu::Cpu::Any => any$(::<$generic $(, $number)*>)?($($arg),*),
            #[cfg(target_arch = "x86_64")]
            #[expect(unsafe_code, reason = "compiled for instructions that not every CPU has")]
            // SAFETY: `Cpu::V3` exists only where these instructions were detected.
            $crate::ecbc::cpu::Cpu::V3 => unsafe { v3$(::<$generic $(, $number)*>)?($($arg),*) },
        }
    }};
}
pub(crate) use compiled_for;
