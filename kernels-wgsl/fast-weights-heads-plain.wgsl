// fast-weights-heads.wgsl where nothing is forgotten.

const FADES = false;

fn factor(its: Piece, t: u32, which: u32) -> f32 { return 1.0; }
fn strength(its: Piece, t: u32) -> f32 { return rate(its.first + t * p.H); }
fn faded(weight: f32, x: f32) -> f32 { return weight * x; }
fn fadedFour(weight: f32, x: vec4<f32>) -> vec4<f32> { return weight * x; }
fn remaining(gamma: f32, x: f32, more: f32) -> f32 { return x + more; }
fn fadePairs(thread: u32, its: Piece, a: ptr<function, Sums>, b: ptr<function, Sums>) {}
