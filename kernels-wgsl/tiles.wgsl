// What matmul.wgsl and products.wgsl do with slices of A and B in workgroup memory. A workgroup of 256 threads makes a tile of C: 64 x 64 elements, 4 x 4 a
// thread, 128 x 64, or 128 x 128, 8 x 8 a thread, with half as many reads of workgroup memory a multiplication.
//
// A slice has room for 1,024 elements of each operand, the depth outermost: 16 or 8 of it, `fours` fours each. There is room for two, so that one is read from
// memory while the other is multiplied, with one barrier a slice: 16 KiB (half as much where Half is f16), which every adapter has. The first 128 threads
// read a slice, a block of 4 x 4 each: four times four neighbours, turned where they lie along the depth, so that whole vectors are written. (A write to a
// component of a vector may touch all of it.)
//
// A row of workgroup memory is as wide as its banks, or a multiple, so that blocks that are one below the other would meet in the same banks. So the fours
// of a row change places with each block of the depth.

var<workgroup> tiles: array<vec4<Half>, 1024>; // [2][A, B][depth][fours]

const SLICES = 512u; // from one slice to the next

/// Where a thread's block begins in the slice: the row of A, or column of B, and the place along the depth. Neighbours read what are neighbours in memory.
fn blockOf(thread: u32, fours: u32, depth: u32, turned: bool) -> vec2<u32> {
  let block = thread & 63u;
  let blocks = depth / 4u;
  return 4u * select(vec2(block % fours, block / fours), vec2(block / blocks, block % blocks), turned);
}

/// Each of `lines` is four rows of A, or columns of B, at one place along the depth. Threads beyond the slice have none.
fn putBlock(slice: u32, thread: u32, at: vec2<u32>, fours: u32, depth: u32, lines: mat4x4<f32>) {
  if (thread >= 128u || at.x >= 4u * fours || at.y >= depth) { return; }
  let first = slice + (thread >> 6u) * 256u + at.y * fours + ((at.x >> 2u) ^ (8u * at.y / depth));
  tiles[first] = vec4<Half>(lines[0]);
  tiles[first + fours] = vec4<Half>(lines[1]);
  tiles[first + 2u * fours] = vec4<Half>(lines[2]);
  tiles[first + 3u * fours] = vec4<Half>(lines[3]);
}

/// Four rows of A at place k of the depth, number `row` of the fours of the tile; four columns of B.
fn rowsOfA(slice: u32, k: u32, row: u32, fours: u32, depth: u32) -> vec4<f32> {
  return vec4<f32>(tiles[slice + k * fours + (row ^ (8u * (k & 12u) / depth))]);
}
fn columnsOfB(slice: u32, k: u32, column: u32, fours: u32, depth: u32) -> vec4<f32> { return rowsOfA(slice + 256u, k, column, fours, depth); }

fn addOuter(a: vec4<f32>, b: vec4<f32>, s: ptr<function, array<vec4<f32>, 4>>) {
  (*s)[0] += a.x * b;
  (*s)[1] += a.y * b;
  (*s)[2] += a.z * b;
  (*s)[3] += a.w * b;
}

fn multiply(slice: u32, ty: u32, tx: u32, s: ptr<function, array<vec4<f32>, 4>>) {
  for (var k = 0u; k < 16u; k++) { addOuter(rowsOfA(slice, k, ty, 16u, 16u), columnsOfB(slice, k, tx, 16u, 16u), s); }
}

/// 128 x 64: the thread has rows 4 ty to 4 ty + 3 and those 64 below, of each four columns from 4 tx on.
fn multiplyTall(slice: u32, ty: u32, tx: u32, s: ptr<function, array<vec4<f32>, 8>>) {
  for (var k = 0u; k < 8u; k++) {
    let a = rowsOfA(slice, k, ty, 32u, 8u);
    let below = rowsOfA(slice, k, ty + 16u, 32u, 8u);
    let b = columnsOfB(slice, k, tx, 16u, 8u);
    (*s)[0] += a.x * b;
    (*s)[1] += a.y * b;
    (*s)[2] += a.z * b;
    (*s)[3] += a.w * b;
    (*s)[4] += below.x * b;
    (*s)[5] += below.y * b;
    (*s)[6] += below.z * b;
    (*s)[7] += below.w * b;
  }
}

/// 128 x 128: also four columns 64 to their right.
fn multiplyWide(slice: u32, ty: u32, tx: u32, s: ptr<function, array<vec4<f32>, 16>>) {
  for (var k = 0u; k < 8u; k++) {
    let a = rowsOfA(slice, k, ty, 32u, 8u);
    let below = rowsOfA(slice, k, ty + 16u, 32u, 8u);
    let b = columnsOfB(slice, k, tx, 32u, 8u);
    let right = columnsOfB(slice, k, tx + 16u, 32u, 8u);
    (*s)[0] += a.x * b;
    (*s)[1] += a.y * b;
    (*s)[2] += a.z * b;
    (*s)[3] += a.w * b;
    (*s)[4] += below.x * b;
    (*s)[5] += below.y * b;
    (*s)[6] += below.z * b;
    (*s)[7] += below.w * b;
    (*s)[8] += a.x * right;
    (*s)[9] += a.y * right;
    (*s)[10] += a.z * right;
    (*s)[11] += a.w * right;
    (*s)[12] += below.x * right;
    (*s)[13] += below.y * right;
    (*s)[14] += below.z * right;
    (*s)[15] += below.w * right;
  }
}

/// Row and column of C, from the tile's first, of a thread's sum i.
fn placeOfSum(i: u32, ty: u32, tx: u32) -> vec2<u32> { return vec2(4u * ty + (i & 3u) + (i & 4u) * 16u, 4u * tx + (i >> 3u) * 64u); }
