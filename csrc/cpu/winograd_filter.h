// Winograd's minimal filtering in one dimension: F(m, 3) gives m neighbouring outputs of a filter
// of three taps with m + 2 multiplications instead of 3 m.
//
//     y = A^T [(G g) * (B^T d)]        d: m + 2 inputs, g: 3 taps, y: m outputs
//
// is the product of two polynomials, evaluated at m + 1 points and infinity and interpolated. In
// two dimensions each matrix is applied to the columns and then to the rows. The denominators of
// the interpolation stand in G, so that B and A are exact in binary.
//
// Rounding grows with the spread of the points' powers. F(2): 0, 1, -1; its error is below that of
// a sum of products in order. F(4): 0, +-5/8, +-3/2, whose error is half that of the usual
// 0, +-1, +-2 and least among the simple fractions tried (1/2, 5/8, 3/4 with 3/2).

template <class C, int kOutputs>
struct Filter;

template <class C>
struct Filter<C, 2> {
  using V = Vector<C>;

  HANDCONV_INLINE static void transform_input(const V (&d)[4], V (&t)[4]) {
    t[0] = d[2] - d[0];
    t[1] = d[2] + d[1];
    t[2] = d[2] - d[1];
    t[3] = d[3] - d[1];
  }
  HANDCONV_INLINE static void transform_weight(const V (&g)[3], V (&u)[4]) {
    const V half = broadcast<C>(0.5f), ends = half * (g[0] + g[2]), middle = half * g[1];
    u[0] = -g[0];
    u[1] = ends + middle;
    u[2] = ends - middle;
    u[3] = g[2];
  }
  HANDCONV_INLINE static void transform_output(const V (&m)[4], V (&y)[2]) {
    y[0] = m[0] + (m[1] + m[2]);
    y[1] = (m[1] - m[2]) + m[3];
  }
};

template <class C>
struct Filter<C, 4> {
  using V = Vector<C>;

  static constexpr double a = 5.0 / 8, b = 3.0 / 2;
  static constexpr double aa = a * a, bb = b * b;

  // Polynomials that vanish at all points but one: x (x^2 - a^2) (x^2 - b^2) without one factor.
  HANDCONV_INLINE static void transform_input(const V (&d)[6], V (&t)[6]) {
    const V product = constant(aa * bb), sum = constant(-aa - bb);
    t[0] = fma(product, d[0], fma(sum, d[2], d[4]));
    t[5] = fma(product, d[1], fma(sum, d[3], d[5]));
    const V even_a = fma(constant(-bb), d[2], d[4]), odd_a = fma(constant(-bb), d[1], d[3]);
    t[1] = fma(constant(a), odd_a, even_a);
    t[2] = fma(constant(-a), odd_a, even_a);
    const V even_b = fma(constant(-aa), d[2], d[4]), odd_b = fma(constant(-aa), d[1], d[3]);
    t[3] = fma(constant(b), odd_b, even_b);
    t[4] = fma(constant(-b), odd_b, even_b);
  }
  // g0 + g1 x + g2 x^2 at the points, over the derivative of the polynomial of all points there.
  HANDCONV_INLINE static void transform_weight(const V (&g)[3], V (&u)[6]) {
    constexpr double at_a = 1 / (2 * aa * (aa - bb)), at_b = 1 / (2 * bb * (bb - aa));
    u[0] = constant(1 / (aa * bb)) * g[0];
    const V even_a = constant(at_a) * fma(constant(aa), g[2], g[0]);
    u[1] = fma(constant(a * at_a), g[1], even_a);
    u[2] = fma(constant(-a * at_a), g[1], even_a);
    const V even_b = constant(at_b) * fma(constant(bb), g[2], g[0]);
    u[3] = fma(constant(b * at_b), g[1], even_b);
    u[4] = fma(constant(-b * at_b), g[1], even_b);
    u[5] = g[2];
  }
  HANDCONV_INLINE static void transform_output(const V (&m)[6], V (&y)[4]) {
    const V even_a = m[1] + m[2], odd_a = m[1] - m[2], even_b = m[3] + m[4], odd_b = m[3] - m[4];
    y[0] = m[0] + (even_a + even_b);
    y[1] = fma(constant(a), odd_a, constant(b) * odd_b);
    y[2] = fma(constant(aa), even_a, constant(bb) * even_b);
    y[3] = fma(constant(aa * a), odd_a, fma(constant(bb * b), odd_b, m[5]));
  }

 private:
  HANDCONV_INLINE static V constant(double value) { return broadcast(static_cast<C>(value)); }
};
