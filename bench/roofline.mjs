export const roofline = () => {}
