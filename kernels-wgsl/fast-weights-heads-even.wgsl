// fast-weights-heads.wgsl where the channels of a head decay as one, or not at all: its tiles are what has been fetched.

const CHANNELS = false;

fn beginPiece(its: Piece) {}
fn erasing(at: u32) -> f32 { return extra[at]; }
fn kindOfRows() -> u32 { return 0u; }
fn stageAcross(thread: u32, its: Piece, i0: u32, height: u32, forPairs: bool) {}
fn stageAlong(thread: u32, its: Piece, i0: u32, height: u32) {}
fn fadeRows(thread: u32, tile: u32, which: u32) {}
fn addPairs(sums: ptr<function, Sums>, thread: u32, a: u32, height: u32, before: bool) { add(sums, thread, a, 0u, height); }
fn fadedOver(thread: u32, begin: u32, end: u32) -> vec4<f32> { return vec4(1.0); }
fn addThrough(sums: ptr<function, Sums>, thread: u32, a: u32, b: u32, begin: u32, end: u32, kind: u32, tokens: u32, how: u32) -> vec4<f32> {
  addSome(sums, thread, a, b, begin, end, kind, tokens, vec4(1.0));
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
