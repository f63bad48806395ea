/**
 * Where plane number `plane` of a strided array begins, in elements. `axes` describes the axes outside the plane, outermost first, as
 * int32 triples (size, stride of the first operand, stride of the second); column 1 or 2 picks the operand.
 */
export function planeOffset(plane: i32, rank: i32, axes: usize, column: usize): i32 {
  let offset = 0
  for (let axis = axes + <usize>rank * 12; axis > axes;) {
    axis -= 12
    const size = load<i32>(axis)
    const rest = plane / size
    offset += (plane - rest * size) * load<i32>(axis + (column << 2))
    plane = rest
  }
  return offset
}
