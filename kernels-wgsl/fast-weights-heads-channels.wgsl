// fast-weights-heads.wgsl, with fast-weights-heads-fading.wgsl, where each channel has a decay of its own, which `decays` of fast-weights.wgsl has put in `channelDecays`. What
// is there of whole tokens is of padding and beginnings alone.
//
// D_ij is a product of decays from token to token. A thread has the pairs of four tokens i and four j, two blocks of them: keys are taken to the end of their own
// block, over the blocks between, whose products are a table in pairsM, and then token by token through the block of i. So no product is made for each pair, and
// none is divided by. Where tokens are the inner axis, a product of decays goes along with the loop.
// Decays of SIDE tokens and SIDE channels lie in pairsP, by slots of four as tiles do, but each of the four for itself, so that neighbouring threads meet no bank twice.
// What a decay of 0 has forgotten may be anything, and a product of small ones is 0: where a piece has such (`careful`), a 0 takes nothing. Elsewhere that costs nothing.

const CHANNELS = true;
const BLOCKS = 8u; // of four tokens in a piece

var<private> careful: bool;

fn beginPiece(its: Piece) { careful = bitsOf(its, SHARP) != 0u; }
/// Of the backward, which has no array left for it: where its gradient will be.
fn erasing(at: u32) -> f32 { return work[p.dA + at]; }
fn kindOfRows() -> u32 { return select(0u, WEIGHTS_A, careful); }

/// a b, and 0 where either is.
fn jointEach(a: vec4<f32>, b: vec4<f32>) -> vec4<f32> {
  let none = ((bitcast<vec4<u32>>(a) << vec4(1u)) == vec4<u32>()) | ((bitcast<vec4<u32>>(b) << vec4(1u)) == vec4<u32>());
  return bitcast<vec4<f32>>(bitcast<vec4<u32>>(a * b) & select(vec4(0xffffffffu), vec4<u32>(), none));
}
fn through(d: vec4<f32>, x: vec4<f32>) -> vec4<f32> {
  if (careful) { return jointEach(d, x); }
  return d * x;
}
/// Of a pair, which may be one that isn't there.
fn met(x: f32, y: vec4<f32>) -> vec4<f32> {
  if (careful) { return jointEach(vec4(x), y); }
  return x * takenFour(x, y);
}

fn decaysAt(slot: u32) -> vec4<f32> { return vec4(pairsP[slot], pairsP[256u + slot], pairsP[512u + slot], pairsP[768u + slot]); }
fn overBlock(slot: u32) -> f32 {
  let w = decaysAt(slot);
  return joint(joint(w.x, w.y), joint(w.z, w.w));
}

/// Decays of a piece and SIDE channels: a slot is four tokens of a channel, or, with `along`, four channels of a token. 1 outside.
fn stageDecays(thread: u32, its: Piece, i0: u32, height: u32, along: bool) {
  for (var e = thread; e < 256u; e += THREADS) {
    let slot = slotOf(e, !along);
    for (var c = 0u; c < 4u; c++) {
      let across = slot % 8u * 4u + c;
      let t = select(across, slot / 8u, along);
      let i = select(slot / 8u, across, along);
      var w = 1.0;
      if (t < its.n && i < height) { w = channelDecays[(its.first + t * p.H) * p.K + i0 + i]; }
      pairsP[c * 256u + slot] = w;
    }
  }
}
fn stageAlong(thread: u32, its: Piece, i0: u32, height: u32) {
  workgroupBarrier();
  stageDecays(thread, its, i0, height, true);
}

const BETWEEN = 21u; // pairs of blocks that have others between them; odd, so that channels meet no bank twice
/// The place of what is between block `earlier` and block `later`, two or more further on.
fn between(earlier: u32, later: u32) -> u32 { return (later - 2u) * (later - 1u) / 2u + earlier; }

/// Decays for rows of tokens; with `forPairs` also, in pairsM, the products between blocks.
fn stageAcross(thread: u32, its: Piece, i0: u32, height: u32, forPairs: bool) {
  stageDecays(thread, its, i0, height, false);
  if (!forPairs) { return; }
  workgroupBarrier();
  for (var e = thread; e < 256u; e += THREADS) {
    let earlier = e % BLOCKS;
    var d = 1.0;
    for (var later = earlier + 2u; later < BLOCKS; later++) {
      d = joint(d, overBlock(e / BLOCKS * BLOCKS + later - 1u));
      pairsM[e / BLOCKS * BETWEEN + between(earlier, later)] = d;
    }
  }
}

/// A tile of rows of tokens, which has been staged, times decays: Gamma_i (QUERY), Gamma_{i-1} (READER), D_nj (WRITTEN).
fn fadeRows(thread: u32, tile: u32, which: u32) {
  workgroupBarrier();
  for (var e = thread; e < 256u; e += THREADS) {
    let block = e % BLOCKS;
    let first = e - block;
    let w = decaysAt(e);
    var d = 1.0;
    for (var b = select(0u, block + 1u, which == WRITTEN); b < select(block, BLOCKS, which == WRITTEN); b++) { d = joint(d, overBlock(first + b)); }
    var by: vec4<f32>;
    if (which == WRITTEN) {
      by.w = d;
      by.z = joint(by.w, w.w);
      by.y = joint(by.z, w.z);
      by.x = joint(by.y, w.y);
    } else {
      by.x = d;
      by.y = joint(by.x, w.x);
      by.z = joint(by.y, w.y);
      by.w = joint(by.z, w.z);
      if (which == QUERY) { by = jointEach(by, w); }
    }
    staged[tile + e] = vec4<Half>(jointEach(by, vec4<f32>(staged[tile + e])));
  }
}

/// What a token i of weight x meets of the keys of a block, y, which are taken on through its own decay w; from there on `own` is one of them.
fn meet(y: ptr<function, vec4<f32>>, x: f32, w: f32, own: vec4<f32>, before: bool) -> vec4<f32> {
  let was = *y;
  *y = through(vec4(w), was) + own;
  return through(vec4(x), select(*y, was, before));
}

/// sums += a_i . D_ij k_j over a tile of channels, or with `before` D_{i-1,j}: of A in tile `a`, keys in the first one.
fn addPairs(sums: ptr<function, Sums>, thread: u32, a: u32, height: u32, before: bool) {
  let later = thread / BLOCKS;
  let earlier = thread % BLOCKS;
  for (var l = 0u; l < height && earlier <= later; l++) {
    let w = decaysAt(l * BLOCKS + later);
    let x = vec4<f32>(staged[a + l * BLOCKS + later]);
    let k = vec4<f32>(staged[l * BLOCKS + earlier]);
    var y = vec4<f32>();
    var own = k;
    if (earlier < later) {
      let u = decaysAt(l * BLOCKS + earlier);
      var d = vec4(1.0);
      if (later - earlier > 1u) { d = vec4(pairsM[l * BETWEEN + between(earlier, later)]); }
      d = through(d, vec4(u.w, u.w, u.w, 1.0));
      d = through(d, vec4(u.z, u.z, 1.0, 1.0));
      y = through(through(d, vec4(u.y, 1.0, 1.0, 1.0)), k);
      own = vec4<f32>();
    }
    (*sums)[0] += meet(&y, x.x, w.x, vec4(own.x, 0.0, 0.0, 0.0), before);
    (*sums)[1] += meet(&y, x.y, w.y, vec4(0.0, own.y, 0.0, 0.0), before);
    (*sums)[2] += meet(&y, x.z, w.z, vec4(0.0, 0.0, own.z, 0.0), before);
    (*sums)[3] += meet(&y, x.w, w.w, vec4(0.0, 0.0, 0.0, own.w), before);
  }
}

/// The product of the decays of the tokens [begin, end), of a thread's four channels.
fn fadedOver(thread: u32, begin: u32, end: u32) -> vec4<f32> {
  var d = vec4(1.0);
  for (var t = begin; t < end; t++) { d = jointEach(d, decaysAt(t * BLOCKS + thread / 8u)); }
  return d;
}

/// sums += A B over the tokens [begin, end) that are in `tokens`, each of A times its decays (`how`): from the first one up to its own (QUERY) or that before (READER), or
/// from the one after to the last (WRITTEN). Gives the product of all.
fn addThrough(sums: ptr<function, Sums>, thread: u32, a: u32, b: u32, begin: u32, end: u32, kind: u32, tokens: u32, how: u32) -> vec4<f32> {
  var d = vec4(1.0);
  for (var s = begin; s < end; s++) {
    let t = select(s, begin + end - 1u - s, how == WRITTEN);
    let was = d;
    d = through(d, decaysAt(t * BLOCKS + thread / 8u));
    if (!isIn(tokens, t)) { continue; }
    let x = through(select(was, d, how == QUERY), vec4<f32>(staged[a + t * 8u + thread / 8u]));
    let y = vec4<f32>(staged[b + t * 8u + thread % 8u]);
    (*sums)[0] += term(kind, 0u, 0u, x.x, y);
    (*sums)[1] += term(kind, 0u, 0u, x.y, y);
    (*sums)[2] += term(kind, 0u, 0u, x.z, y);
    (*sums)[3] += term(kind, 0u, 0u, x.w, y);
  }
  return d;
}
/// What of a state is left.
fn stays(left: f32, x: f32) -> f32 { return joint(left, x); }

// ---- backward: what pairs of tokens bring each other, and their decays ------------------------------------------------------------------
//
// A thread has four tokens, a block, and four channels. What lies between it and a token of another block, a product of decays, goes along as it goes through
// those, away from its own block. Then it's taken through its own: by what comes from outside and from each pair in it, decays of the block's tokens are crossed, and by
// what has come from an earlier block those of whole blocks between. They get what has crossed them: that is added up, nothing is subtracted.

/// Entry (i,j) of a triangle in pairsM: of four i, or j, side by side.
fn pairAt(i: u32, j: u32, strict: bool) -> f32 { return pairsM[select(j * SIDE + i, i * SIDE + j, strict)]; }

/// The place of what the tokens of block `later` have from before block `over`, in the first tile.
fn crossing(over: u32, later: u32, group: u32) -> u32 { return (later * (later - 1u) / 2u + over) * BLOCKS + group; }

/// Adds to `sums` what a thread's tokens have from others: from the later ones' rows (of queries or readers, in the other tile), up to the end of its block; or from the
/// earlier ones' keys (in the other tile), up to its beginning, where also what of these crosses whole blocks is noted: times `rows`, of queries or readers that have met
/// the decays in the block. `before`: a reader doesn't meet its own decay. Gives the product of the decays in between.
fn gather(
  sums: ptr<function, Sums>,
  thread: u32,
  its: Piece,
  fromLater: bool,
  strict: bool,
  before: bool,
  rows: ptr<function, Sums>,
  again: bool,
) -> vec4<f32> {
  let block = thread / BLOCKS;
  let group = thread % BLOCKS;
  let own = cornerOf(thread, its.n, SIDE);
  let first = block * 4u;
  var d = vec4(1.0);
  var crossed = vec4<f32>();
  for (var s = 0u; s < select(first, its.n - min(its.n, first + 4u), fromLater); s++) {
    let t = select(first - 1u - s, first + 4u + s, fromLater);
    let was = d;
    d = through(d, decaysAt(t * BLOCKS + group));
    var y = through(select(was, d, fromLater && !before), vec4<f32>(staged[OTHER + t * 8u + group]));
    if (!fromLater) { y *= strength(its, t); }
    var x: vec4<f32>;
    for (var r = 0u; r < own.height; r++) { x[r] = pairAt(select(first + r, t, fromLater), select(t, first + r, fromLater), strict); }
    (*sums)[0] += met(x.x, y);
    (*sums)[1] += met(x.y, y);
    (*sums)[2] += met(x.z, y);
    (*sums)[3] += met(x.w, y);
    if (fromLater || t / 4u + 1u >= block) { continue; }
    crossed += jointEach(y, met(x.x, (*rows)[0]) + met(x.y, (*rows)[1]) + met(x.z, (*rows)[2]) + met(x.w, (*rows)[3]));
    if (t % 4u == 0u) {
      let at = crossing(t / 4u + 1u, block, group);
      if (again) { crossed += vec4<f32>(staged[at]); }
      staged[at] = vec4<Half>(crossed);
      crossed = vec4<f32>();
    }
  }
  return d;
}

/// With queries in the other tile, or then readers.
fn fromLater(thread: u32, its: Piece, ofReaders: bool, later: ptr<function, Later>) {
  var rows: Sums;
  for (var r = 0u; r < 4u; r++) { rows[r] = vec4<f32>(staged[OTHER + (thread / 8u * 4u + r) * 8u + thread % 8u]); }
  if (ofReaders) { (*later).readers = rows; }
  else {
    (*later).queries = rows;
    (*later).sums = Sums();
  }
  var sums = (*later).sums;
  (*later).d = gather(&sums, thread, its, true, ofReaders, ofReaders && p.reads == ERASE, &rows, false);
  (*later).sums = sums;
}

/// After what comes of the states (dQ, dA and dK, without the decays of channels; `left` and `ofStates`: what is left of the state, and what that is worth, in four channels
/// of the state's tile): what decays leave of that, what comes of pairs, and the gradient of the decays. With beta, keys are in the other tile.
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
) {
  let keys = its.first * p.K + i0;
  let nextK = p.H * p.K;
  let block = thread / BLOCKS;
  let group = thread % BLOCKS;
  let own = cornerOf(thread, its.n, height);
  let first = block * 4u;
  var dw = Sums();
  workgroupBarrier();
  if (p.reads != BETA) {
    stage(thread, OTHER, Side(KEYS, keys, 1u, nextK, height, its.n), 1.0);
    workgroupBarrier();
  }

  // From earlier blocks, the state and this block to queries and readers; and to keys, in the block.
  var here = Sums();
  for (var kind = 0u; kind < select(1u, 2u, p.reads != 0u); kind++) {
    let strict = kind == 1u;
    let before = strict && p.reads == ERASE;
    let last = select(1u, 0u, before); // whether a token's own decay is one that it meets
    var sums = *dQ;
    var rows = (*later).queries;
    if (strict) {
      sums = *dA;
      rows = (*later).readers;
    }
    var decays = Sums();
    var fadedRows = Sums();
    var d = vec4(1.0);
    for (var r = 0u; r < own.height; r++) {
      let was = d;
      d = jointEach(d, decaysAt((first + r) * 8u + group));
      decays[r] = select(d, was, before);
      fadedRows[r] = jointEach(decays[r], rows[r]);
    }
    var earlier = Sums();
    let fromState = gather(&earlier, thread, its, false, strict, before, &fadedRows, strict);
    var crossed = vec4<f32>();
    for (var r = 0u; r < own.height; r++) {
      let ofState = jointEach(fromState, sums[r]);
      crossed += jointEach(fadedRows[r], ofState);
      let outside = earlier[r] + ofState;
      let meets = jointEach(fadedRows[r], outside);
      for (var t = 0u; t < r + last; t++) { dw[t] += meets; }
      sums[r] = jointEach(decays[r], outside);
      d = vec4(1.0);
      for (var c = kind; c <= r; c++) {
        let j = r - c;
        if (c > kind || (strict && !before)) { d = jointEach(d, decaysAt((first + j + 1u) * 8u + group)); }
        let beta = strength(its, first + j);
        let pair = pairAt(first + r, first + j, strict);
        let k = vec4<f32>(staged[OTHER + (first + j) * 8u + group]);
        sums[r] += met(faded(pair, beta), jointEach(d, k));
        let dk = met(pair, jointEach(d, rows[r]));
        here[j] += dk;
        let meets = jointEach(k, jointEach(vec4(beta), dk));
        for (var t = j + 1u; t < r + last; t++) { dw[t] += meets; }
      }
    }
    if (block > 0u) {
      if (strict) { crossed += vec4<f32>(staged[crossing(0u, block, group)]); }
      staged[crossing(0u, block, group)] = vec4<Half>(crossed);
    }
    if (strict) { *dA = sums; }
    else { *dQ = sums; }
  }

  // From later blocks and the state after the piece to keys, through this block.
  var written = vec4<f32>();
  var d = vec4(1.0);
  for (var c = own.height; c > 0u; c--) {
    let j = c - 1u;
    let at = (first + j) * 8u + group;
    let k = fadedFour(strength(its, first + j), jointEach(d, vec4<f32>(staged[OTHER + at])));
    let ofState = jointEach((*later).d, (*dK)[j]);
    written += jointEach(k, ofState);
    let outside = (*later).sums[j] + ofState;
    let meets = jointEach(k, outside);
    for (var t = c; t < own.height; t++) { dw[t] += meets; }
    (*dK)[j] = jointEach(d, outside) + here[j];
    d = jointEach(d, decaysAt(at));
  }

  // What crosses whole blocks.
  let gamma = factor(its, its.n - 1u, GAMMA);
  for (var over = 1u; over < block; over++) {
    staged[crossing(over, block, group)] += staged[crossing(over - 1u, block, group)];
  }
  workgroupBarrier();
  for (var c = 0u; c < 4u; c++) {
    pairsP[thread * 4u + c] = written[c];
    pairsP[256u + (block * 4u + c) * 8u + group] = faded(gamma, joint(left[c], ofStates[c]));
  }
  workgroupBarrier();
  var over = vec4<f32>();
  for (var b = block + 1u; b < BLOCKS; b++) { over += vec4<f32>(staged[crossing(block, b, group)]); }
  for (var s = 0u; s < own.width; s++) {
    for (var b = 0u; b < block; b++) { over[s] += pairsP[(b * BLOCKS + group) * 4u + s]; }
    for (var b = 0u; b < 8u; b++) { over[s] += pairsP[256u + (group * 4u + s) * 8u + b]; }
  }
  for (var r = 0u; r < own.height; r++) {
    let there = factor(its, first + r, THERE);
    for (var s = 0u; s < own.width; s++) { channelDecays[keys + (first + r) * nextK + own.column + s] = faded(there, dw[r][s] + over[s]); }
  }
}
