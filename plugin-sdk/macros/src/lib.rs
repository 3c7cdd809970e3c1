//! `#[settings]`, which the SDK exports: makes a struct or an enum readable from an operator's settings and able to write
//! its JSON Schema. Reads types as text only: what a type's schema is, its own `Schema` says. Invariant: schema,
//! defaults and reader are made of the same words, so that they cannot differ.

mod field;

use field::Field;
use proc_macro::TokenStream;
use proc_macro2::TokenStream as Tokens;
use quote::{ToTokens, format_ident, quote};
use syn::{Attribute, Data, DataEnum, DeriveInput, Error, Fields, Meta, Result, parse_macro_input};

/// Makes a struct with named fields, or an enum of plain names, into settings: see `tidegate_plugin_sdk::settings`.
#[proc_macro_attribute]
pub fn settings(arguments: TokenStream, item: TokenStream) -> TokenStream {
    let input = parse_macro_input!(item as DeriveInput);
    let made = if arguments.is_empty() {
        made(input)
    } else {
        Err(Error::new_spanned(Tokens::from(arguments), "`#[settings]` takes nothing here; bounds stand at the fields"))
    };
    made.unwrap_or_else(Error::into_compile_error).into()
}

fn made(mut input: DeriveInput) -> Result<Tokens> {
    if !input.generics.params.is_empty() {
        return Err(Error::new_spanned(&input.generics, "settings have no generics"));
    }
    match &mut input.data {
        Data::Struct(data) => match &mut data.fields {
            Fields::Named(fields) => {
                let read = fields.named.iter_mut().map(Field::take).collect::<Result<Vec<_>>>()?;
                Ok(of_struct(&input, &read))
            }
            other => Err(Error::new_spanned(other, "settings have named fields")),
        },
        Data::Enum(data) => {
            let names = names(data)?;
            Ok(of_enum(&input, &names))
        }
        Data::Union(data) => Err(Error::new_spanned(data.union_token, "settings are a struct or an enum")),
    }
}

fn of_struct(input: &DeriveInput, fields: &[Field]) -> Tokens {
    let (name, doc) = (&input.ident, json(&doc(&input.attrs)));
    let mut readers = Vec::new();
    let mut reading = input.clone();
    if let Data::Struct(data) = &mut reading.data {
        for (field, read) in data.fields.iter_mut().zip(fields) {
            let (ident, ty) = (&read.name, &read.ty);
            match &read.default {
                _ if read.required => {}
                None => field.attrs.push(syn::parse_quote!(#[serde(default)])),
                Some(json) => {
                    let reader = format_ident!("__default_{ident}");
                    let path = format!("{name}::{reader}");
                    field.attrs.push(syn::parse_quote!(#[serde(default = #path)]));
                    readers.push(quote! {
                        #[doc(hidden)]
                        fn #reader() -> #ty {
                            ::tidegate_plugin_sdk::schema::default(stringify!(#ident), #json)
                        }
                    });
                }
            }
        }
    }
    // Without required ones `{}` is the default.
    let default = (!fields.iter().any(|field| field.required)).then(|| {
        let values = fields.iter().map(|Field { name: ident, default, .. }| match default {
            Some(_) => {
                let reader = format_ident!("__default_{ident}");
                quote!(#ident: Self::#reader())
            }
            None => quote!(#ident: ::core::default::Default::default()),
        });
        quote! {
            impl ::core::default::Default for #name {
                fn default() -> Self {
                    Self { #(#values),* }
                }
            }
        }
    });
    let required: Vec<String> =
        fields.iter().filter(|field| field.required).map(|field| json(&field.name.to_string())).collect();
    let required = match required.is_empty() {
        true => String::new(),
        false => format!(r#","required":[{}]"#, required.join(",")),
    };
    let head = format!(r#"{{"type":"object","additionalProperties":false{required},"properties":{{"#);
    let properties = fields.iter().enumerate().map(|(n, field)| {
        let comma = if n == 0 { "" } else { "," };
        let (key, ty, bounds) = (format!("{comma}{}:", json(&field.name.to_string())), &field.ty, field.bounds());
        quote! {
            out.push_str(#key);
            <#ty as ::tidegate_plugin_sdk::schema::Schema>::write(&#bounds, out);
        }
    });
    quote! {
        #[derive(::tidegate_plugin_sdk::serde::Deserialize)]
        #[serde(crate = "::tidegate_plugin_sdk::serde", deny_unknown_fields)]
        #reading

        impl #name { #(#readers)* }

        #default

        impl ::tidegate_plugin_sdk::schema::Schema for #name {
            const DOC: &'static str = #doc;

            fn write(of: &::tidegate_plugin_sdk::schema::Bounds, out: &mut ::std::string::String) {
                out.push_str(#head);
                #(#properties)*
                out.push('}');
                of.end::<Self>(out);
            }
        }
    }
}

fn of_enum(input: &DeriveInput, names: &[String]) -> Tokens {
    let (name, doc) = (&input.ident, json(&doc(&input.attrs)));
    let names: Vec<String> = names.iter().map(|name| json(name)).collect();
    let head = format!(r#"{{"enum":[{}]"#, names.join(","));
    quote! {
        #[derive(::tidegate_plugin_sdk::serde::Deserialize)]
        #[serde(crate = "::tidegate_plugin_sdk::serde", rename_all = "kebab-case")]
        #input

        impl ::tidegate_plugin_sdk::schema::Schema for #name {
            const DOC: &'static str = #doc;

            fn write(of: &::tidegate_plugin_sdk::schema::Bounds, out: &mut ::std::string::String) {
                out.push_str(#head);
                of.end::<Self>(out);
            }
        }
    }
}

/// As operators write them.
fn names(of: &DataEnum) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for variant in &of.variants {
        if !matches!(variant.fields, Fields::Unit) {
            return Err(Error::new_spanned(variant, "an enum in settings is a choice of plain names"));
        }
        let mut name = String::new();
        for (n, c) in variant.ident.to_string().char_indices() {
            if c.is_uppercase() && n > 0 {
                name.push('-');
            }
            name.extend(c.to_lowercase());
        }
        names.push(name);
    }
    Ok(names)
}

/// The doc comment as one paragraph.
fn doc(attributes: &[Attribute]) -> String {
    let mut text = String::new();
    for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident("doc")) {
        let Meta::NameValue(pair) = &attribute.meta else { continue };
        let syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(line), .. }) = &pair.value else { continue };
        let (line, gap) = (line.value().trim().to_owned(), if text.is_empty() { "" } else { " " });
        if !line.is_empty() {
            text += gap;
            text += &line;
        }
    }
    text
}

/// A JSON string.
fn json(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => out += &format!("\\u{:04x}", u32::from(c)),
            c => out.push(c),
        }
    }
    out + "\""
}

/// Rust's words for a JSON value: the same, but for the spaces that they come with.
fn json_text(tokens: impl ToTokens) -> String {
    tokens.to_token_stream().to_string().replace("- ", "-")
}
