// fast-weights-heads.wgsl where the channels of a head decay as one, or not at all: its tiles are what has been fetched.

const CHANNELS = false;

fn beginPiece(its: Piece) {}
fn erasing(at: u32) -> f32 { return extra[at]; }
fn stageAcross(thread: u32, its: Piece, i0: u32, height: u32, forPairs: bool) {}
fn stageAlong(thread: u32, its: Piece, i0: u32, height: u32) {}
fn fadeRows(thread: u32, tile: u32, which: u32) {}
fn addPairs(sums: ptr<function, Sums>, ofKeys: ptr<function, Sums>, thread: u32, a: u32, height: u32, before: bool, keysToo: bool) {
  add(sums, thread, a, 0u, height);
  if (keysToo) { add(ofKeys, thread, 0u, 0u, height); }
}
/// Rows of tokens times a state that they meet after their decays, so that nothing overflows that has decayed: `weights` of those rows.
fn addMet(sums: ptr<function, Sums>, thread: u32, a: u32, b: u32, count: u32, weights: vec4<f32>) { addSome(sums, thread, a, b, 0u, count, 0u, ALL, weights); }

/// What a product with a or A^T is: of erase, a 0 takes nothing; k is 0 only with its decay.
fn addRead(sums: ptr<function, Sums>, thread: u32, a: u32, b: u32, count: u32, weights: vec4<f32>) {
  if (FADES && p.reads == ERASE) { addSome(sums, thread, a, b, 0u, count, WEIGHTS_A, ALL, weights); }
  else { addMet(sums, thread, a, b, count, weights); }
}
fn fadedOver(thread: u32, begin: u32, end: u32) -> vec4<f32> { return vec4(1.0); }
fn addThrough(sums: ptr<function, Sums>, thread: u32, a: u32, b: u32, begin: u32, end: u32, tokens: u32, how: u32) -> vec4<f32> {
  if (FADES && how == READER) { addSome(sums, thread, a, b, begin, end, WEIGHTS_A, tokens, vec4(1.0)); }
  else { addSome(sums, thread, a, b, begin, end, 0u, tokens, vec4(1.0)); }
  return vec4(1.0);
}
fn stays(left: f32, x: f32) -> f32 { return x; }
fn fromLater(thread: u32, its: Piece, ofReaders: bool, later: ptr<function, Later>) {}
fn pairsBack(
  thread: u32,
  its: Piece,
  i0: u32,
  height: u32,
  left: vec4<f32>,
  ofStates: vec4<f32>,
  later: ptr<function, Later>,
  dQ: ptr<function, Sums>,
  dA: ptr<function, Sums>,
  dK: ptr<function, Sums>,
) {}
